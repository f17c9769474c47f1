//! cgroup v2, where a part of it is the client's: the kernel keeps the limits of whole trees, and tells what it did. Where there is none,
//! as in most containers, each test says so and tries nothing; `tests/kernels` runs them where there is.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::{Client, binary, copy_program, place, wait_for};
use crate::limits::is_ended_by;

/// Whether the kernel keeps limits of trees here by this controller of cgroup v2.
pub fn has_cgroups(client: &Client, controller: &str) -> bool {
    let log = client.log();
    let line = log.lines().find(|line| line.contains("the kernel keeps limits of payloads by cgroup"));
    let has = line.is_some_and(|line| line.contains(controller));
    if !has {
        println!("not tried: no {controller} of cgroup v2 here");
    }
    has
}

/// Whether any process of this system has this command line.
fn is_any_alive(command: &[u8]) -> bool {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|found| found == command))
}

/// A group that is handed down to a client, as systemd does it (Delegate=yes): to this user, or to root, marked as such. Removed at its
/// end with all that is below it.
struct Delegated(PathBuf);

impl Delegated {
    /// `None` where cgroup v2 has no such controller, or is not this test's.
    fn new(name: &str, controller: &str, user: u32) -> Option<Self> {
        let top = Path::new("/sys/fs/cgroup");
        let path = top.join(format!("{name}-{}", std::process::id()));
        let has = fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default().contains(controller);
        if !has || fs::create_dir(&path).is_err() {
            println!("not tried: no {controller} of cgroup v2 here");
            return None;
        }
        for controller in ["+memory", "+pids"] {
            let _ = fs::write(top.join("cgroup.subtree_control"), controller);
        }
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            std::os::unix::fs::chown(path.join(file), Some(user), Some(user)).unwrap();
        }
        let mark = format!("import os; os.setxattr('{}', 'trusted.delegate', b'1')", path.display());
        assert!(Command::new("python3").args(["-c", &mark]).status().unwrap().success());
        Some(Self(path))
    }

    /// Runs a client in it, by way of `wrapper`.
    fn client(&self, wrapper: &[&str], program: &Path, data: &Path, settings: &[(&str, &str)]) -> Client {
        let mut command = Command::new("sh");
        command.arg("-c").arg("echo $$ > \"$0\"/cgroup.procs && exec \"$@\"").arg(&self.0).args(wrapper);
        command.arg(program).args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]).arg(data);
        command.envs(settings.iter().copied()).current_dir("/");
        Client::spawn(command, data)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = Command::new("find").arg(&self.0).args(["-depth", "-type", "d", "-delete"]).status();
    }
}

/// The client's own part of the tree of groups.
fn home_of(client: &Client) -> PathBuf {
    let own = fs::read_to_string(format!("/proc/{}/cgroup", client.pid())).unwrap();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    Path::new("/sys/fs/cgroup").join(path).parent().unwrap().to_owned()
}

#[test]
fn the_kernel_ends_what_takes_more_memory_before_anybody_looks() {
    let client = Client::with(&[("MEMORY_LIMIT", "60M")]);
    if !has_cgroups(&client, "memory") {
        return;
    }
    let id = client.run("#!/bin/sh\npython3 -c 'text = bytearray(b\"x\" * (200 << 20))'\necho > survived\n");
    is_ended_by(&client, &id, "MEMORY_LIMIT, 60M");
    assert!(!client.loc(&id).join("survived").exists(), "all of it is ended, and not one process");
    // The group is used again, and what it has counted is not the next one's.
    client.result(&client.run("#!/bin/sh\n:\n"));
    let groups = fs::read_dir(home_of(&client)).unwrap().flatten();
    assert_eq!(groups.filter(|entry| entry.file_name().to_string_lossy().starts_with("slot-")).count(), 1);
    client.must_be_well_and_empty("a payload without memory");
}

#[test]
fn what_hides_from_everybody_else_is_ended_with_its_group() {
    let client = Client::with(&[("LINGER", "0")]);
    if !has_cgroups(&client, "pids") {
        return;
    }
    let running = client.run("#!/bin/sh\nsleep 100\n");
    client.wait_for_file(&running, ".orchestrator.out");
    // Known by its argument: in a room its number is another one.
    let id = client.run(
        "#!/bin/sh\n(cd / && exec setsid env -i sleep 98765 </dev/null >/dev/null 2>&1) &\n\
         while ! grep -q sleep /proc/$!/comm; do :; done\necho > hidden\n",
    );
    client.wait_for_file(&id, "hidden");
    client.result(&id);
    wait_for("its end", || (!is_any_alive(b"sleep\098765\0")).then_some(()));
    client.post(&format!("/kill/{running}"));
    client.ended(&running);
}

#[test]
fn groups_of_a_life_that_was_cut_are_removed_by_the_next() {
    let (_home, data) = place();
    let client = Client::at(&data, &[]);
    if !has_cgroups(&client, "pids") {
        return;
    }
    let id = client.run("#!/bin/sh\necho > there\nsleep 100\n");
    client.wait_for_file(&id, "there");
    let home = home_of(&client);
    assert!(home.join("slot-0").is_dir());
    client.kill();
    let next = Client::at(&data, &[]);
    wait_for("the removal", || (!home.exists()).then_some(()));
    next.result(&next.run("#!/bin/sh\n:\n"));
}

#[test]
fn want_of_memory_that_is_not_the_payloads_own_limit_is_told_as_a_fact() {
    let Some(around) = Delegated::new("around", "memory", 0) else { return };
    fs::write(around.0.join("memory.max"), "150M").unwrap();
    let _ = fs::write(around.0.join("memory.swap.max"), "0");
    let (_home, data) = place();
    let client = around.client(&[], &binary(), &data, &[]);
    assert!(has_cgroups(&client, "memory") && home_of(&client).starts_with(&around.0));
    let id = client.run("#!/bin/sh\npython3 -c 'text = bytearray(b\"x\" * (400 << 20))'\n");
    let answer = client.ended(&id);
    assert_eq!(answer.json("status").as_deref(), Some("Failed"), "{}", answer.text());
    assert!(answer.json("error").unwrap().contains("there was no memory left"), "{}", answer.text());
    client.must_be_well_and_empty("a payload without memory");
}

#[test]
fn an_ordinary_user_has_what_is_handed_down_to_him() {
    const USER: u32 = 65_534;
    let Some(delegated) = Delegated::new("handed-down", "pids", USER) else { return };
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = home.path().join("program");
    copy_program(&binary(), &program);
    let user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let client = delegated.client(&user, &program, &home.path().join("data"), &[("PIDS_LIMIT", "50")]);
    assert!(has_cgroups(&client, "pids") && home_of(&client).starts_with(&delegated.0), "{}", client.log());
    let bomb = client.run("#!/bin/sh\nbomb() { sleep 100 & sleep 100 & bomb; }\nbomb\n");
    is_ended_by(&client, &bomb, "PIDS_LIMIT, 50");
    let id = client.run("#!/bin/sh\ncat /proc/self/cgroup > group\n");
    assert!(client.result(&id).file("group").contains("/slot-0\n"));
}

#[test]
fn a_group_that_is_somebody_elses_is_left_alone() {
    let Some(alien) = Delegated::new("alien", "pids", 0) else { return };
    let unmark = format!("import os; os.removexattr('{}', 'trusted.delegate')", alien.0.display());
    assert!(Command::new("python3").args(["-c", &unmark]).status().unwrap().success());
    let (_home, data) = place();
    let client = alien.client(&[], &binary(), &data, &[("PIDS_LIMIT", "50")]);
    client.wait_for_log("this client's cgroup is not delegated to it");
    assert_eq!(fs::read_dir(&alien.0).unwrap().flatten().filter(|entry| entry.path().is_dir()).count(), 0);
    let bomb = client.run("#!/bin/sh\nbomb() { sleep 100 & sleep 100 & bomb; }\nbomb\n");
    is_ended_by(&client, &bomb, "PIDS_LIMIT, 50");
}
