//! What the machine's memory has room for: MAX_CONNECTIONS suits a board of 512 MiB, and smaller machines serve fewer.

use rustix::process::{Resource, getrlimit};

use super::Room;
use crate::event;

/// Connections may have a sixth of the memory, and half of the address space.
const SHARE_OF_MEMORY: u64 = 6;
const SHARE_OF_ADDRESSES: u64 = 2;

/// What a connection takes that waits for its next request: two pages of its stack, and what client and kernel keep of it.
/// `tests/kernels/run --board` measures it.
const STACK_PAGES: u64 = 2;
const BESIDE_STACK: u64 = 8 * 1024;

/// What it takes of the heap at the most: its head and the answer to it, each twice while its buffer grows.
const HEAP_OF_CONNECTION: u64 = 48 * 1024;

/// Pages below a stack that nothing may touch, and the rounding of its size.
const GUARD_PAGES: u64 = 2;

/// Connections above the limit that are told so and waited for while they read it.
const MAX_REFUSALS: u64 = 64;

/// Threads beside the workers, and the stack of one, as std has it.
const FIXED_THREADS: u64 = 16;

/// Threads that move no files, and what the store and its queries take: of addresses only.
const DISK_THREADS: u64 = 64;
const STORE_BYTES: u64 = 8 * 1024 * 1024;
const THREAD_STACK_BYTES: u64 = 2 * 1024 * 1024;

/// Transfers of one direction may have an eighth of the memory. Of the address space downloads may have a quarter, uploads an eighth,
/// and the last eighth is nobody's: a heap has holes.
const SHARE_OF_MEMORY_FOR_TRANSFERS: u64 = 8;
const SHARE_OF_DOWNLOADS: u64 = 4;
const SHARE_OF_UPLOADS: u64 = 8;

/// What a download takes whose reader is slow: its pipe, its window and compressor, the touched part of its stack. 477 KiB were
/// measured.
const DOWNLOAD_BYTES: u64 = 512 * 1024;

/// What it takes at the most, beside its stack: a compressor and its tables (384 KiB), a block (321 KiB), the history of a file
/// (32 KiB), the pipe (192 KiB), and the central directory with its buffers (up to 544 KiB while it grows).
const MOST_OF_DOWNLOAD: u64 = 1536 * 1024;

/// What each further thread takes that compresses an archive, beside its stack: a compressor and two blocks.
const ZIP_THREAD_BYTES: u64 = 1024 * 1024;

/// What an upload takes at the most, beside its stack: the pipe (192 KiB), and what is read ahead of a part.
const MOST_OF_UPLOAD: u64 = 512 * 1024;

/// Most uploads move fast, and one that does not makes way.
const MOST_UPLOADS: u64 = 64;

/// A slow reader holds its thread, and others must not wait for it.
const MOST_DOWNLOADS: u64 = 512;

/// The machine, in bytes.
struct Machine {
    memory: u64,
    /// What this process may still have: by `ulimit -v`, and never more than a 32-bit kernel gives its programs.
    addresses: Option<u64>,
    page: u64,
}

/// What there is room for, connections at most as many as wanted; says so where it is fewer. `stack`: what a connection
/// reserves of the address space, in bytes; `thread_stack`: the same of a disk thread; `zip_threads`: those of one archive.
pub fn room(connections: usize, stack: usize, thread_stack: usize, zip_threads: usize) -> Room {
    let information = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, reason = "32 bits on some machines")]
    let memory = u64::from(information.totalram).saturating_mul(u64::from(information.mem_unit));
    let limit = getrlimit(Resource::As).current;
    let addresses =
        if cfg!(target_pointer_width = "32") { Some(limit.unwrap_or(1 << 31).min(1 << 31)) } else { limit };
    let page = rustix::param::page_size() as u64;
    let machine = Machine {
        memory,
        addresses: addresses.map(|most| most.saturating_sub(taken(page, thread_stack as u64))),
        page,
    };
    let (room, bound) = divide(connections, stack as u64, thread_stack as u64, zip_threads as u64, &machine);
    if room.connections < connections {
        event!(
            Warn,
            "MAX_CONNECTIONS is lowered to what there is room for",
            connections = room.connections,
            wanted = connections,
            bound = bound,
            memory_mib = memory >> 20,
        );
    }
    room
}

/// Whether the address space of this process is limited (`ulimit -v`).
pub fn is_bounded() -> bool {
    getrlimit(Resource::As).current.is_some()
}

/// What of the address space is mapped now or will be, whoever connects: threads that are always there.
fn taken(page: u64, thread_stack: u64) -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mapped = statm.split(' ').next().and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * page;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    mapped + (cores + FIXED_THREADS) * THREAD_STACK_BYTES + DISK_THREADS * thread_stack + STORE_BYTES
}

/// The numbers, none of them 0, and what that of connections comes from.
fn divide(
    connections: usize,
    stack: u64,
    thread_stack: u64,
    zip_threads: u64,
    machine: &Machine,
) -> (Room, &'static str) {
    let stack = stack + GUARD_PAGES * machine.page;
    let addresses = machine.addresses.unwrap_or(u64::MAX);
    let by_memory = machine.memory / SHARE_OF_MEMORY / (STACK_PAGES * machine.page + BESIDE_STACK);
    // Those above the limit have a stack too while they are told.
    let stacks = addresses / SHARE_OF_ADDRESSES / (stack + HEAP_OF_CONNECTION);
    let refusals = MAX_REFUSALS.min(stacks / 4);
    let by_addresses = stacks - refusals;
    let (least, bound) = if by_memory <= by_addresses {
        (by_memory, "memory")
    } else {
        (by_addresses, "address space (ulimit -v)")
    };
    let thread = thread_stack + GUARD_PAGES * machine.page;
    let further = zip_threads.saturating_sub(1) * (thread + ZIP_THREAD_BYTES);
    let memory = machine.memory / SHARE_OF_MEMORY_FOR_TRANSFERS / DOWNLOAD_BYTES;
    let uploads = memory.min(addresses / SHARE_OF_UPLOADS / (thread + MOST_OF_UPLOAD));
    let downloads = memory.min(addresses / SHARE_OF_DOWNLOADS / (thread + MOST_OF_DOWNLOAD + further));
    let number = |number: u64, most: u64| usize::try_from(number.min(most)).unwrap_or(usize::MAX).max(1);
    let room = Room {
        connections: number(least, connections as u64),
        refusals: number(refusals, MAX_REFUSALS),
        uploads: number(uploads, MOST_UPLOADS),
        downloads: number(downloads, MOST_DOWNLOADS),
    };
    (room, bound)
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
        for (memory_mib, connections) in [(32_768, 4096), (430, 4096), (256, 2730), (64, 682), (0, 1)] {
            let machine = machine(memory_mib, Some(2048), 4096);
            assert_eq!(
                divide(4096, 65_536, 262_144, 1, &machine).0.connections,
                connections,
                "{memory_mib} MiB"
            );
        }
    }

    #[test]
    fn larger_pages_and_a_bounded_address_space_count() {
        let connections = |wanted, machine| {
            let (room, bound) = divide(wanted, 131_072, 262_144, 1, &machine);
            (room.connections, bound)
        };
        assert_eq!(connections(16_384, machine(1024, None, 16_384)), (4369, "memory"));
        let by_addresses = "address space (ulimit -v)";
        assert_eq!(connections(4096, machine(8192, Some(136), 4096)), (314, by_addresses));
        assert_eq!(connections(4096, machine(8192, Some(1), 4096)), (2, by_addresses));
    }

    #[test]
    fn slow_readers_have_threads_as_far_as_there_is_memory() {
        for (memory_mib, addresses_mib, uploads, downloads) in [
            (32_768, None, 64, 512),
            (512, None, 64, 128),
            (64, None, 16, 16),
            (8192, Some(100), 16, 14),
            (0, None, 1, 1),
        ] {
            let (room, _) = divide(4096, 131_072, 262_144, 1, &machine(memory_mib, addresses_mib, 4096));
            assert_eq!(
                (room.uploads, room.downloads),
                (uploads, downloads),
                "{memory_mib} {addresses_mib:?}"
            );
        }
    }
}
