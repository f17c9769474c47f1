//! The filter: which system calls a payload is denied, by seccomp (seccomp(2), Linux 3.5; on 64-bit ARM 3.19). The table here is the
//! data: what, on which machine under which number, with which error, and why. From it a program for the kernel is made.
//!
//! All that is not in the table is allowed, up to the last call that is known here: later ones do not exist for a payload, as on
//! an older kernel. The layers beside this one say what may be opened; this one keeps payloads from what those do not see.

use libc::{
    AF_NETLINK, AF_UNIX, AF_VSOCK, BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD,
    BPF_RET, BPF_W, sock_filter,
};
use libc::{EAFNOSUPPORT, ENOSYS, EPERM};

/// What the filter must know of the other layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Around {
    /// Another layer keeps processes of others from being traced and their memory from being read: any Landlock, a process
    /// namespace, another user.
    pub others_are_untraceable: bool,
    /// Another layer keeps their limits and priorities from being changed: a process namespace, another user.
    pub others_are_unchangeable: bool,
    /// The payload may use the network, or has a network namespace of its own.
    pub has_network: bool,
}

/// When a row applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    /// Nothing else keeps the payload from tracing others of its user.
    OthersTraceable,
    /// Nothing else keeps it from changing others of its user.
    OthersChangeable,
    /// The network is off, and that is left to the filter.
    NoNetwork,
}

/// What must hold of an argument, of which 0 is the first. The kernel looks at the lower 32 bits of all that are compared here.
#[derive(Clone, Copy, Debug)]
enum Condition {
    Is(u32, u32),
    IsNot(u32, u32),
    /// Any of these bits.
    HasAny(u32, u32),
    /// A pointer, of which all bits count.
    IsGiven(u32),
}
use Condition::{HasAny, Is, IsGiven, IsNot};

/// A system call that is denied where all `conditions` hold. Several rows of one call: where those of any do.
struct Row {
    /// As the kernel has it.
    #[cfg(test)]
    name: &'static str,
    /// By [`Machine`]; [`NONE`] where the machine has no such call.
    numbers: [u16; 4],
    when: When,
    /// What the caller gets; 0: the call seems to work, and does nothing.
    errno: i32,
    conditions: &'static [Condition],
}

/// Whose numbers they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "each machine has two of them"))]
enum Machine {
    X86_64,
    /// 32-bit programs on x86-64.
    I386,
    Aarch64,
    /// With the embedded ABI, on kernels of 32 and 64 bits.
    Arm,
}
use Machine::{Aarch64, Arm, I386, X86_64};

impl Machine {
    /// Those whose programs can run where this client does: a kernel of 64 bits runs programs of both widths, and a client of 32
    /// bits can start programs of 64.
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    const HERE: [Self; 2] = [X86_64, I386];
    #[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
    const HERE: [Self; 2] = [Aarch64, Arm];

    /// How the kernel names it to a filter (include/uapi/linux/audit.h).
    const fn audit(self) -> u32 {
        match self {
            X86_64 => 0xC000_003E,
            I386 => 0x4000_0003,
            Aarch64 => 0xC000_00B7,
            Arm => 0x4000_0028,
        }
    }
}

/// The machine has no such call.
const NONE: u16 = u16::MAX;

/// The last call that is known here: `listns`, Linux 6.19. Since 5.0 all machines give new calls the same numbers. The calls of x32,
/// from 0x40000000 up, are beyond it.
const LAST_KNOWN: u32 = 470;

/// 32-bit ARM has calls of its own from here up, such as for thread-local storage, which every program makes
/// (arch/arm/include/uapi/asm/unistd.h).
const ARM_PRIVATE: u32 = 0x000F_0000;

/// The bits of clone(2) and unshare(2) that make a namespace. That of times is a bit of unshare alone.
const NAMESPACES: u32 = 0x7E02_0000;
const TIME_NAMESPACE: u32 = 0x80;

/// personality(2): asks for the present one.
const QUERY: u32 = 0xFFFF_FFFF;
/// What a program may choose: 32 bits (0x8), a version as of old (0x20000), addresses that are the same each time (0x40000,
/// `setarch -R`, debuggers), or laid out as of old (0x200000). The others make memory executable or page 0 usable.
const HARMLESS_PERSONALITIES: u32 = 0x8 | 0x2_0000 | 0x4_0000 | 0x20_0000;

/// ioctl(2): puts characters into the input of a terminal, and the selection of a console.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541C;

/// socketcall(2), the door of old 32-bit programs: makes a socket, of a kind that stands in memory, where no filter sees it. The C
/// libraries have used `socket` itself since Linux 4.3.
const SYS_SOCKET: u32 = 1;

/// mknod(2): of all kinds of files, only devices have this bit.
const DEVICE: u32 = 0x2000;

/// setpriority(2) and ioprio_set(2): all processes of a user.
const PRIO_USER: u32 = 2;
const IOPRIO_WHO_USER: u32 = 3;

macro_rules! rows {
    ($($name:ident [$($numbers:tt)*] $when:ident $errno:ident $conditions:expr;)*) => {
        &[$(Row {
            #[cfg(test)]
            name: stringify!($name),
            numbers: [$($numbers)*],
            when: When::$when,
            errno: $errno,
            conditions: &$conditions,
        }),*]
    };
}

/// No error: the call seems to work.
const NOTHING: i32 = 0;

/// The table. Numbers: x86-64, i386, 64-bit ARM, 32-bit ARM. ENOSYS where programs know what to do without: it looks like an older
/// kernel. EPERM where the kernel says so to whoever lacks the right.
#[rustfmt::skip]
const ROWS: &[Row] = rows![
    // What a payload sees of the file system is settled before it starts.
    mount              [165,   21,  40,   21] Always EPERM [];
    umount             [NONE,  22, NONE, NONE] Always EPERM [];
    umount2            [166,   52,  39,   52] Always EPERM [];
    pivot_root         [155,  217,  41,  218] Always EPERM [];
    chroot             [161,   61,  51,   61] Always EPERM [];
    open_tree          [428,  428, 428,  428] Always EPERM []; // Linux 5.2, as the next five
    move_mount         [429,  429, 429,  429] Always EPERM [];
    fsopen             [430,  430, 430,  430] Always EPERM [];
    fsconfig           [431,  431, 431,  431] Always EPERM [];
    fsmount            [432,  432, 432,  432] Always EPERM [];
    fspick             [433,  433, 433,  433] Always EPERM [];
    mount_setattr      [442,  442, 442,  442] Always EPERM []; // 5.12
    open_tree_attr     [467,  467, 467,  467] Always EPERM []; // 6.15
    // In a namespace of its own a payload has all rights, and meets kernel code that was written for administrators.
    clone              [ 56,  120, 220,  120] Always EPERM [HasAny(0, NAMESPACES)];
    clone3             [435,  435, 435,  435] Always ENOSYS []; // 5.3; its flags are in memory. The C libraries fall back on clone
    unshare            [272,  310,  97,  337] Always EPERM [HasAny(0, NAMESPACES | TIME_NAMESPACE)];
    setns              [308,  346, 268,  375] Always EPERM []; // 3.0
    // A file by its number, whatever is above it; needs a right that nobody should lose to a payload of root.
    open_by_handle_at  [304,  342, 265,  371] Always EPERM []; // 2.6.39
    mknod              [133,   14, NONE,  14] Always EPERM [HasAny(1, DEVICE)];
    mknodat            [259,  297,  33,  324] Always EPERM [HasAny(2, DEVICE)];
    fanotify_init      [300,  338, 262,  367] Always EPERM []; // 2.6.37; for all users since 5.13: sees the files of others
    // The kernel itself.
    init_module        [175,  128, 105,  128] Always EPERM [];
    finit_module       [313,  350, 273,  379] Always EPERM []; // 3.8
    delete_module      [176,  129, 106,  129] Always EPERM [];
    kexec_load         [246,  283, 104,  347] Always EPERM [];
    kexec_file_load    [320, NONE, 294,  401] Always EPERM []; // 3.17
    reboot             [169,   88, 142,   88] Always EPERM [];
    syslog             [103,  103, 116,  103] Always EPERM []; // the log of the kernel tells addresses
    iopl               [172,  110, NONE, NONE] Always EPERM [];
    ioperm             [173,  101, NONE, NONE] Always EPERM [];
    vm86               [NONE, 166, NONE, NONE] Always EPERM [];
    vm86old            [NONE, 113, NONE, NONE] Always EPERM [];
    // Engines in the kernel that programs do without, and that most break-outs of late began with. The first makes other system
    // calls, past any filter.
    io_uring_setup     [425,  425, 425,  425] Always ENOSYS []; // 5.1, as the next two
    io_uring_enter     [426,  426, 426,  426] Always ENOSYS [];
    io_uring_register  [427,  427, 427,  427] Always ENOSYS [];
    bpf                [321,  357, 280,  386] Always EPERM []; // 3.18
    perf_event_open    [298,  336, 241,  364] Always EPERM []; // 2.6.31
    userfaultfd        [323,  374, 282,  388] Always EPERM []; // 4.3
    // Keys are the user's, and outlive the payload.
    add_key            [248,  286, 217,  309] Always EPERM [];
    request_key        [249,  287, 218,  310] Always EPERM [];
    keyctl             [250,  288, 219,  311] Always EPERM [];
    // What the whole machine has one of.
    clock_settime      [227,  264, 112,  262] Always EPERM [];
    clock_settime64    [NONE, 404, NONE, 404] Always EPERM []; // 5.1
    clock_adjtime      [305,  343, 266,  372] Always EPERM []; // 2.6.39
    clock_adjtime64    [NONE, 405, NONE, 405] Always EPERM []; // 5.1
    settimeofday       [164,   79, 170,   79] Always EPERM [];
    stime              [NONE,  25, NONE, NONE] Always EPERM [];
    adjtimex           [159,  124, 171,  124] Always EPERM [];
    sethostname        [170,   74, 161,   74] Always EPERM [];
    setdomainname      [171,  121, 162,  121] Always EPERM [];
    swapon             [167,   87, 224,   87] Always EPERM [];
    swapoff            [168,  115, 225,  115] Always EPERM [];
    acct               [163,   51,  89,   51] Always EPERM [];
    quotactl           [179,  131,  60,  131] Always EPERM [];
    quotactl_fd        [443,  443, 443,  443] Always EPERM []; // 5.14
    // Single commands of calls that are needed.
    ioctl              [ 16,   54,  29,   54] Always EPERM [Is(1, TIOCSTI)];
    ioctl              [ 16,   54,  29,   54] Always EPERM [Is(1, TIOCLINUX)];
    personality        [135,  136,  92,  136] Always EPERM [IsNot(0, QUERY), HasAny(0, !HARMLESS_PERSONALITIES)];
    // The host of a virtual machine is no network that anybody means; Landlock does not see it.
    socket             [ 41,  359, 198,  281] Always EAFNOSUPPORT [Is(0, AF_VSOCK.cast_unsigned())];
    socketcall         [NONE, 102, NONE, NONE] Always ENOSYS [Is(0, SYS_SOCKET)];
    // NETWORK=off. With no socket of the Internet there is no way past Landlock's rules of TCP either: TCP Fast Open, MPTCP, UDP.
    socket             [ 41,  359, 198,  281] NoNetwork EAFNOSUPPORT [IsNot(0, AF_UNIX.cast_unsigned()), IsNot(0, AF_NETLINK.cast_unsigned())];
    // Other processes of the same user.
    ptrace             [101,   26, 117,   26] OthersTraceable EPERM [];
    process_vm_readv   [310,  347, 270,  376] OthersTraceable EPERM []; // 3.2
    process_vm_writev  [311,  348, 271,  377] OthersTraceable EPERM [];
    pidfd_getfd        [438,  438, 438,  438] OthersTraceable EPERM []; // 5.6
    process_madvise    [440,  440, 440,  440] OthersTraceable EPERM []; // 5.10
    kcmp               [312,  349, 272,  378] OthersTraceable EPERM []; // 3.5
    // 0 is the caller. His own number is not known when the filter is made.
    move_pages         [279,  317, 239,  344] OthersTraceable EPERM [IsNot(0, 0)];
    migrate_pages      [256,  294, 238,  400] OthersTraceable EPERM [IsNot(0, 0)];
    prlimit64          [302,  340, 261,  369] OthersChangeable EPERM [IsNot(0, 0), IsGiven(2)]; // 2.6.36
    setpriority        [141,   97, 140,   97] OthersChangeable EPERM [IsNot(1, 0)];
    setpriority        [141,   97, 140,   97] OthersChangeable EPERM [Is(0, PRIO_USER)];
    ioprio_set         [251,  289,  30,  314] OthersChangeable EPERM [IsNot(1, 0)];
    ioprio_set         [251,  289,  30,  314] OthersChangeable EPERM [Is(0, IOPRIO_WHO_USER)];
    sched_setparam     [142,  154, 118,  154] OthersChangeable EPERM [IsNot(0, 0)];
    sched_setscheduler [144,  156, 119,  156] OthersChangeable EPERM [IsNot(0, 0)];
    sched_setattr      [314,  351, 274,  380] OthersChangeable EPERM [IsNot(0, 0)]; // 3.14
    // OpenMP names its threads by their numbers here, and ends where that fails. To it, this is a hint.
    sched_setaffinity  [203,  241, 122,  241] OthersChangeable NOTHING [IsNot(0, 0)];
];

/// Where a filter finds things (`struct seccomp_data`, include/uapi/linux/seccomp.h): the number of the call, the machine, and six
/// arguments of 64 bits, the lower half first on all machines that this is built for.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The answers of a filter (seccomp(2)).
const ALLOW: u32 = 0x7FFF_0000;
const ERRNO: u32 = 0x0005_0000;

const fn denied(errno: i32) -> u32 {
    ERRNO | errno.cast_unsigned()
}

/// The program for all machines whose programs can run here. A program of any other is told that there is no such call.
pub fn program(around: Around) -> Vec<sock_filter> {
    let mut code = vec![load(MACHINE)];
    for machine in Machine::HERE {
        let section = section(machine, around);
        // A conditional jump reaches 255 instructions far, which a section may exceed.
        code.push(jump(BPF_JEQ, machine.audit(), 1, 0));
        code.push(skip(section.len()));
        code.extend(section);
    }
    code.push(answer(denied(ENOSYS)));
    code
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq)]
enum Leaf {
    Answer(u32),
    /// Its arguments decide, by the instructions from here on among those for arguments.
    Arguments(usize),
}

/// The part of one machine: a binary tree over the numbers, so that no call takes more than a few steps, and behind it what looks at
/// arguments. Short programs also start faster: the kernel compiles them, and runs them for each number, for each payload.
fn section(machine: Machine, around: Around) -> Vec<sock_filter> {
    let mut arguments = Vec::new();
    // From each of these numbers on, up to the next, all calls have one leaf.
    let mut cuts: Vec<(u32, Leaf)> = Vec::new();
    let mut cut = |number, leaf| {
        if cuts.last().is_none_or(|before| before.1 != leaf) {
            cuts.push((number, leaf));
        }
    };
    for number in 0..=LAST_KNOWN {
        cut(number, leaf(rows_of(machine, around, number), &mut arguments));
    }
    cut(LAST_KNOWN + 1, Leaf::Answer(denied(ENOSYS)));
    if machine == Arm {
        cut(ARM_PRIVATE, Leaf::Answer(ALLOW));
    }
    let mut code = vec![load(NUMBER)];
    let tree_end = 2 * cuts.len();
    add_tree(&cuts, tree_end, &mut code);
    code.extend(arguments);
    code
}

fn rows_of(machine: Machine, around: Around, number: u32) -> impl Iterator<Item = &'static Row> + Clone {
    let applies = move |row: &&Row| match row.when {
        When::Always => true,
        When::OthersTraceable => !around.others_are_untraceable,
        When::OthersChangeable => !around.others_are_unchangeable,
        When::NoNetwork => !around.has_network,
    };
    ROWS.iter().filter(move |row| u32::from(row.numbers[machine as usize]) == number).filter(applies)
}

/// Adds what looks at the arguments of the call that `rows` are about, if that is needed.
fn leaf(rows: impl Iterator<Item = &'static Row> + Clone, arguments: &mut Vec<sock_filter>) -> Leaf {
    if let Some(row) = rows.clone().find(|row| row.conditions.is_empty()) {
        return Leaf::Answer(denied(row.errno));
    }
    let start = arguments.len();
    for row in rows {
        let mut tests: Vec<sock_filter> =
            row.conditions.iter().flat_map(|condition| test(*condition)).collect();
        let end = tests.len();
        for (at, instruction) in tests.iter_mut().enumerate() {
            // Where it does not hold, the next row is looked at, behind the answer of this one.
            let beyond = u8::try_from(end - at).unwrap_or(u8::MAX);
            instruction.jt = if instruction.jt == ELSE { beyond } else { instruction.jt };
            instruction.jf = if instruction.jf == ELSE { beyond } else { instruction.jf };
        }
        arguments.extend(tests);
        arguments.push(answer(denied(row.errno)));
    }
    if arguments.len() == start {
        return Leaf::Answer(ALLOW);
    }
    arguments.push(answer(ALLOW));
    Leaf::Arguments(start)
}

/// In place of the distance to where a condition does not hold.
const ELSE: u8 = u8::MAX;

fn test(condition: Condition) -> Vec<sock_filter> {
    let lower = |argument: u32| load(ARGUMENTS + 8 * argument);
    match condition {
        Is(argument, value) => vec![lower(argument), jump(BPF_JEQ, value, 0, ELSE)],
        IsNot(argument, value) => vec![lower(argument), jump(BPF_JEQ, value, ELSE, 0)],
        HasAny(argument, bits) => vec![lower(argument), jump(BPF_JSET, bits, 0, ELSE)],
        IsGiven(argument) => vec![
            lower(argument),
            jump(BPF_JEQ, 0, 0, 2),
            load(ARGUMENTS + 8 * argument + 4),
            jump(BPF_JEQ, 0, ELSE, 0),
        ],
    }
}

/// `arguments_at`: where in `code` that for arguments will begin.
fn add_tree(cuts: &[(u32, Leaf)], arguments_at: usize, code: &mut Vec<sock_filter>) {
    let (lower, upper) = cuts.split_at(cuts.len() / 2);
    let Some((number, leaf)) = upper.first() else { return };
    if lower.is_empty() {
        code.push(match leaf {
            Leaf::Answer(value) => answer(*value),
            Leaf::Arguments(start) => skip(arguments_at + start - code.len() - 1),
        });
        return;
    }
    // A tree of so many leaves has one fork less.
    let over_lower = u8::try_from(2 * lower.len() - 1).unwrap_or(u8::MAX);
    code.push(jump(BPF_JGE, *number, over_lower, 0));
    add_tree(lower, arguments_at, code);
    add_tree(upper, arguments_at, code);
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    // All codes are below 256.
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k }
}

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset)
}

fn jump(comparison: u32, value: u32, jt: u8, jf: u8) -> sock_filter {
    instruction(BPF_JMP | comparison | BPF_K, jt, jf, value)
}

fn skip(count: usize) -> sock_filter {
    // A program of more instructions is refused by the kernel.
    instruction(BPF_JMP | BPF_JA, 0, 0, u32::try_from(count).unwrap_or(u32::MAX))
}

fn answer(value: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, 0, 0, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With nothing beside the filter, so that all rows apply.
    const ALONE: Around =
        Around { others_are_untraceable: false, others_are_unchangeable: false, has_network: false };
    /// With all other layers.
    const COVERED: Around =
        Around { others_are_untraceable: true, others_are_unchangeable: true, has_network: true };
    const MACHINES: [Machine; 4] = [X86_64, I386, Aarch64, Arm];

    const RET: u16 = 0x06;
    const LD: u16 = 0x20;
    const JA: u16 = 0x05;
    const JEQ: u16 = 0x15;
    const JGE: u16 = 0x35;
    const JSET: u16 = 0x45;

    /// Runs a program as the kernel does (Documentation/networking/filter.rst). Gives its answer, and in how many steps.
    fn run(code: &[sock_filter], machine: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
        let word = |offset: u32| match offset {
            NUMBER => number,
            MACHINE => machine,
            _ => {
                let argument = arguments[(offset as usize - 16) / 8];
                let half = if offset.is_multiple_of(8) { argument } else { argument >> 32 };
                u32::try_from(half & 0xFFFF_FFFF).expect("32 bits")
            }
        };
        let (mut at, mut loaded) = (0, 0);
        for step in 1.. {
            let sock_filter { code, jt, jf, k } = code[at];
            let choose = |holds: bool| 1 + usize::from(if holds { jt } else { jf });
            at += match code {
                RET => return (k, step),
                LD => {
                    loaded = word(k);
                    1
                }
                JA => 1 + k as usize,
                JEQ => choose(loaded == k),
                JGE => choose(loaded >= k),
                JSET => choose(loaded & k != 0),
                _ => unreachable!("no such instruction: {code:#x}"),
            };
        }
        unreachable!("every program returns");
    }

    /// The part of one machine, whichever this one is.
    fn ask(machine: Machine, around: Around, number: u32, arguments: [u64; 6]) -> u32 {
        run(&section(machine, around), machine.audit(), number, arguments).0
    }

    fn number(machine: Machine, name: &str) -> Option<u32> {
        let row = ROWS.iter().find(|row| row.name == name).expect("a row");
        Some(row.numbers[machine as usize]).filter(|number| *number != NONE).map(u32::from)
    }

    const NO_ARGUMENTS: [u64; 6] = [0; 6];

    #[test]
    fn every_number_gets_what_the_table_says() {
        for machine in MACHINES {
            for around in [ALONE, COVERED] {
                let code = section(machine, around);
                for number in (0..1200).chain([0x4000_0000, 0x4000_0000 + 165, 0x7FFF_FFFF, 0xFFFF_FFFF]) {
                    let (answer, steps) = run(&code, machine.audit(), number, NO_ARGUMENTS);
                    let rows: Vec<_> = rows_of(machine, around, number).collect();
                    let expected = if number > LAST_KNOWN {
                        let is_private = machine == Arm && number >= ARM_PRIVATE;
                        if is_private { ALLOW } else { denied(ENOSYS) }
                    } else if let Some(row) = rows.iter().find(|row| row.conditions.is_empty()) {
                        denied(row.errno)
                    } else {
                        ALLOW // no argument of zeros is denied, but by the next test's
                    };
                    let by_zeros = number == self::number(machine, "socket").expect("all have it")
                        && !around.has_network;
                    let expected = if by_zeros { denied(EAFNOSUPPORT) } else { expected };
                    assert_eq!(answer, expected, "{machine:?} {number} {around:?}");
                    assert!(steps <= 16, "{machine:?} {number}: {steps} steps");
                }
            }
        }
    }

    /// In the words of the manual pages, and not of the table.
    #[test]
    fn arguments_decide_where_a_call_is_needed_too() {
        const FORK: u64 = 17;
        const THREAD: u64 = 0x003D_0F00;
        let eperm = denied(EPERM);
        #[rustfmt::skip]
        let cases: &[(&str, &[u64], u32)] = &[
            ("clone", &[FORK], ALLOW),
            ("clone", &[THREAD], ALLOW),
            ("clone", &[FORK | 0x1000_0000], eperm), // CLONE_NEWUSER
            ("clone", &[FORK | 0x0002_0000], eperm), // CLONE_NEWNS
            ("clone", &[FORK | 0x4000_0000], eperm), // CLONE_NEWNET
            ("unshare", &[0x400], ALLOW), // CLONE_FILES
            ("unshare", &[0x80], eperm), // CLONE_NEWTIME
            ("unshare", &[0x1000_0000], eperm),
            ("mknod", &[1, 0o010_644], ALLOW), // a pipe
            ("mknod", &[1, 0o020_644], eperm), // a device of characters
            ("mknod", &[1, 0o060_644], eperm), // and of blocks
            ("mknodat", &[1, 1, 0o140_644], ALLOW), // a socket
            ("mknodat", &[1, 1, 0o020_644], eperm),
            ("ioctl", &[0, 0x5401], ALLOW), // TCGETS
            ("ioctl", &[0, 0x5412], eperm), // TIOCSTI
            ("ioctl", &[0, 0xFFFF_FFFF_0000_5412], eperm), // the kernel looks at 32 bits
            ("ioctl", &[0, 0x541C], eperm), // TIOCLINUX
            ("personality", &[0], ALLOW),
            ("personality", &[0xFFFF_FFFF], ALLOW),
            ("personality", &[0x0004_0000], ALLOW), // ADDR_NO_RANDOMIZE
            ("personality", &[0x0040_0000], eperm), // READ_IMPLIES_EXEC
            ("personality", &[0x0010_0008], eperm), // MMAP_PAGE_ZERO
            ("socket", &[1], ALLOW), // AF_UNIX
            ("socket", &[16], ALLOW), // AF_NETLINK
            ("socket", &[40], denied(EAFNOSUPPORT)), // AF_VSOCK
            ("socketcall", &[2], ALLOW), // bind
            ("socketcall", &[1], denied(ENOSYS)),
        ];
        check(cases, COVERED);
        check(cases, ALONE);
    }

    #[test]
    fn other_processes_of_the_user_are_out_of_reach_where_nothing_else_keeps_them_so() {
        let eperm = denied(EPERM);
        #[rustfmt::skip]
        let cases: &[(&str, &[u64], u32)] = &[
            ("prlimit64", &[0, 7, 4096], ALLOW),
            ("prlimit64", &[77, 7, 0, 4096], ALLOW), // asks
            ("prlimit64", &[77, 7, 4096], eperm),
            ("prlimit64", &[77, 7, 0x1_0000_0000], eperm), // a pointer whose lower half is zero
            ("setpriority", &[0, 0, 5], ALLOW), // itself
            ("setpriority", &[0, 77, 5], eperm),
            ("setpriority", &[1, 0, 5], ALLOW), // its group
            ("setpriority", &[2, 0, 5], eperm), // its user
            ("ioprio_set", &[1, 0, 1], ALLOW),
            ("ioprio_set", &[1, 77, 1], eperm),
            ("ioprio_set", &[3, 0, 1], eperm),
            ("sched_setaffinity", &[0, 8, 4096], ALLOW),
            ("sched_setaffinity", &[77, 8, 4096], denied(0)),
            ("sched_setscheduler", &[0], ALLOW),
            ("sched_setscheduler", &[77], eperm),
            ("move_pages", &[0], ALLOW),
            ("move_pages", &[77], eperm),
            ("ptrace", &[0], eperm),
            ("process_vm_readv", &[0], eperm),
        ];
        check(cases, ALONE);
        for (name, arguments, _) in cases {
            check(&[(name, arguments, ALLOW)], COVERED);
        }
    }

    #[test]
    fn no_network_leaves_the_sockets_of_the_machine_itself() {
        let refused = denied(EAFNOSUPPORT);
        check(&[("socket", &[2], refused), ("socket", &[10], refused), ("socket", &[17], refused)], ALONE);
        check(&[("socket", &[2], ALLOW), ("socket", &[10], ALLOW), ("socket", &[17], ALLOW)], COVERED);
    }

    fn check(cases: &[(&str, &[u64], u32)], around: Around) {
        for (name, given, expected) in cases {
            let mut arguments = NO_ARGUMENTS;
            arguments[..given.len()].copy_from_slice(given);
            for machine in MACHINES {
                let Some(number) = number(machine, name) else { continue };
                let answer = ask(machine, around, number, arguments);
                assert_eq!(answer, *expected, "{machine:?} {name} {given:x?} {around:?}");
            }
        }
    }

    /// The numbers of the table beside those of the C library. Those of the other machines are compared where the tests run there.
    #[test]
    fn the_numbers_are_those_of_this_machine() {
        let here = Machine::HERE[usize::from(!cfg!(target_pointer_width = "64"))];
        let known = [
            ("mount", libc::SYS_mount),
            ("pivot_root", libc::SYS_pivot_root),
            ("chroot", libc::SYS_chroot),
            ("umount2", libc::SYS_umount2),
            ("open_tree", libc::SYS_open_tree),
            ("fspick", libc::SYS_fspick),
            ("clone", libc::SYS_clone),
            ("clone3", libc::SYS_clone3),
            ("unshare", libc::SYS_unshare),
            ("setns", libc::SYS_setns),
            ("open_by_handle_at", libc::SYS_open_by_handle_at),
            ("mknodat", libc::SYS_mknodat),
            ("fanotify_init", libc::SYS_fanotify_init),
            ("init_module", libc::SYS_init_module),
            ("finit_module", libc::SYS_finit_module),
            ("delete_module", libc::SYS_delete_module),
            ("kexec_load", libc::SYS_kexec_load),
            ("reboot", libc::SYS_reboot),
            ("syslog", libc::SYS_syslog),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("bpf", libc::SYS_bpf),
            ("perf_event_open", libc::SYS_perf_event_open),
            ("userfaultfd", libc::SYS_userfaultfd),
            ("add_key", libc::SYS_add_key),
            ("request_key", libc::SYS_request_key),
            ("keyctl", libc::SYS_keyctl),
            ("clock_settime", CLOCK_SETTIME),
            ("clock_adjtime", libc::SYS_clock_adjtime),
            ("adjtimex", libc::SYS_adjtimex),
            ("sethostname", libc::SYS_sethostname),
            ("setdomainname", libc::SYS_setdomainname),
            ("swapon", libc::SYS_swapon),
            ("swapoff", libc::SYS_swapoff),
            ("acct", libc::SYS_acct),
            ("quotactl", libc::SYS_quotactl),
            ("ioctl", libc::SYS_ioctl),
            ("personality", libc::SYS_personality),
            ("socket", libc::SYS_socket),
            ("ptrace", libc::SYS_ptrace),
            ("process_vm_readv", libc::SYS_process_vm_readv),
            ("process_vm_writev", libc::SYS_process_vm_writev),
            ("pidfd_getfd", libc::SYS_pidfd_getfd),
            ("kcmp", libc::SYS_kcmp),
            ("move_pages", libc::SYS_move_pages),
            ("prlimit64", libc::SYS_prlimit64),
            ("setpriority", libc::SYS_setpriority),
            ("ioprio_set", libc::SYS_ioprio_set),
            ("sched_setparam", libc::SYS_sched_setparam),
            ("sched_setscheduler", libc::SYS_sched_setscheduler),
            ("sched_setattr", libc::SYS_sched_setattr),
            ("sched_setaffinity", libc::SYS_sched_setaffinity),
        ];
        for (name, expected) in known {
            let number = number(here, name).expect("the machine has it");
            assert_eq!(Ok(number), u32::try_from(expected), "{name}");
        }
    }

    /// musl gives the one of 32-bit times another name on ARM.
    #[cfg(not(all(target_arch = "arm", target_env = "musl")))]
    const CLOCK_SETTIME: libc::c_long = libc::SYS_clock_settime;
    #[cfg(all(target_arch = "arm", target_env = "musl"))]
    const CLOCK_SETTIME: libc::c_long = 262;

    #[test]
    fn a_program_has_a_part_for_each_machine_and_refuses_all_others() {
        for around in [ALONE, COVERED] {
            let code = program(around);
            assert!(code.len() < 4096, "the kernel takes no more (BPF_MAXINSNS)");
            for machine in Machine::HERE {
                let [mount, clone] =
                    ["mount", "clone"].map(|name| number(machine, name).expect("all have it"));
                assert_eq!(run(&code, machine.audit(), mount, NO_ARGUMENTS).0, denied(EPERM));
                assert_eq!(run(&code, machine.audit(), clone, NO_ARGUMENTS).0, ALLOW);
            }
            // A machine that cannot run here.
            assert_eq!(run(&code, 0xC000_00F3, 0, NO_ARGUMENTS).0, denied(ENOSYS));
        }
    }

    #[test]
    fn jumps_reach_where_they_have_to() {
        for machine in MACHINES {
            for around in [ALONE, COVERED] {
                let code = section(machine, around);
                for (at, instruction) in code.iter().enumerate() {
                    if instruction.code != RET && instruction.code != LD && instruction.code != JA {
                        assert!(instruction.jt < ELSE && instruction.jf < ELSE, "{machine:?} {at}");
                    }
                }
            }
        }
    }
}
