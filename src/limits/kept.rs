//! In the words of a payload's receipt: which limits it has, and how each is kept.

use super::{ALL, Grant, Group, Limit};

/// One line for each limit. `usable`: the processors that there are, since all of them are no limit.
pub fn kept(grant: &Grant, group: Option<&Group>, usable: usize) -> Vec<String> {
    let line = |limit: Limit| {
        let value = grant.get(limit)?;
        let by_cgroup = group.is_some_and(|group| group.keeps(limit));
        let (name, how) = match limit {
            Limit::Time => ("time", " by a clock"),
            Limit::Cpu => ("cpu", LOOKING),
            Limit::Memory => ("memory", if by_cgroup { CGROUP } else { LOOKING }),
            Limit::Pids => ("pids", if by_cgroup { CGROUP } else { LOOKING }),
            Limit::File => ("file", " by rlimit"),
            Limit::Disk => ("disk", LOOKING),
            Limit::Processors if value >= usable as u64 => return None,
            Limit::Processors => ("cpus", if by_cgroup { " by affinity and cgroup" } else { " by affinity" }),
            Limit::Network => return None,
        };
        Some(format!("{name}:{}{how}", limit.shown(value)))
    };
    ALL.into_iter().filter_map(line).collect()
}

const LOOKING: &str = " by looking once a second";
const CGROUP: &str = " by cgroup";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Request;

    #[test]
    fn each_limit_is_told_with_its_way() {
        let asked = Request::of_text("time_limit=2h memory_limit=2G file_limit=1M job_cpus=2 max_disk=3M");
        let grant = asked.expect("understood").within(&Grant::default()).expect("granted");
        let told = ["time:2h by a clock", "memory:2G by looking once a second", "file:1M by rlimit"];
        let more = ["disk:3M by looking once a second", "cpus:2 by affinity"];
        assert_eq!(kept(&grant, None, 4), [&told[..], &more].concat());
        assert_eq!(kept(&grant, None, 2), [&told[..], &more[..1]].concat());
    }
}
