//! What the machine's memory has room for: MAX_CONNECTIONS suits a board of 512 MiB, and smaller machines serve fewer.

use rustix::process::{Resource, getrlimit};

use crate::event;

/// Connections may have an eighth of the memory, and half of the address space.
const SHARE_OF_MEMORY: u64 = 8;
const SHARE_OF_ADDRESSES: u64 = 2;

/// What a connection takes that waits for its next request: two pages of its stack, and what client and kernel keep of it.
/// `tests/kernels/run --board` measures it.
const STACK_PAGES: u64 = 2;
const BESIDE_STACK: u64 = 8 * 1024;

/// Pages below a stack that nothing may touch, and the rounding of its size.
const GUARD_PAGES: u64 = 2;

/// The machine, in bytes.
struct Machine {
    memory: u64,
    /// What this process may have: `ulimit -v`, and never more than a 32-bit kernel gives its programs.
    addresses: Option<u64>,
    page: u64,
}

/// How many connections there is room for, at most as many as wanted; says so where it is fewer. `stack`: what a connection
/// reserves of the address space, in bytes.
pub fn connections(wanted: usize, stack: usize) -> usize {
    let information = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, reason = "32 bits on some machines")]
    let memory = u64::from(information.totalram).saturating_mul(u64::from(information.mem_unit));
    let limit = getrlimit(Resource::As).current;
    let addresses =
        if cfg!(target_pointer_width = "32") { Some(limit.unwrap_or(1 << 31).min(1 << 31)) } else { limit };
    let machine = Machine { memory, addresses, page: rustix::param::page_size() as u64 };
    let (connections, bound) = room(wanted as u64, stack as u64, &machine);
    let connections = usize::try_from(connections).unwrap_or(wanted);
    if connections < wanted {
        event!(
            Warn,
            "MAX_CONNECTIONS is lowered to what there is room for",
            connections = connections,
            wanted = wanted,
            bound = bound,
            memory_mib = memory >> 20,
        );
    }
    connections
}

/// The number, never 0, and what it comes from.
fn room(wanted: u64, stack: u64, machine: &Machine) -> (u64, &'static str) {
    let by_memory = machine.memory / SHARE_OF_MEMORY / (STACK_PAGES * machine.page + BESIDE_STACK);
    let by_addresses = machine
        .addresses
        .map_or(u64::MAX, |addresses| addresses / SHARE_OF_ADDRESSES / (stack + GUARD_PAGES * machine.page));
    let (least, bound) = if by_memory <= by_addresses {
        (by_memory, "memory")
    } else {
        (by_addresses, "address space (ulimit -v)")
    };
    (least.clamp(1, wanted), bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn machine(memory_mib: u64, addresses_mib: Option<u64>, page: u64) -> Machine {
        Machine { memory: memory_mib * MIB, addresses: addresses_mib.map(|mib| mib * MIB), page }
    }

    #[test]
    fn the_default_fits_a_board_of_512_mib_and_less_memory_gets_less() {
        for (memory_mib, connections) in [(32_768, 4096), (512, 4096), (256, 2048), (64, 512), (0, 1)] {
            let machine = machine(memory_mib, Some(2048), 4096);
            assert_eq!(room(4096, 65_536, &machine).0, connections, "{memory_mib} MiB");
        }
    }

    #[test]
    fn larger_pages_and_a_bounded_address_space_count() {
        assert_eq!(room(16_384, 131_072, &machine(1024, None, 16_384)), (3276, "memory"));
        assert_eq!(room(4096, 131_072, &machine(8192, Some(136), 4096)), (512, "address space (ulimit -v)"));
        assert_eq!(room(4096, 131_072, &machine(8192, Some(1), 4096)).0, 3);
    }
}
