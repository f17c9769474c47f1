//! What payloads try, one entry each: the issue's list, as shell lines and calls of `attempt.c`. Each says what holds it, any
//! of which is enough, and how it is shown that it would succeed otherwise. No running and no judging here.

use Control::{Beside, Never, Off};
use Layer::{Always, Filter, OwnUser, Rooms, Rules, Token};

/// What a host may give to hold payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// What each payload gets, whatever SANDBOX says.
    Always,
    /// Namespaces of its own.
    Rooms,
    /// Landlock, of this ABI or a newer one.
    Rules(u32),
    /// seccomp.
    Filter,
    /// A user id of its own for each slot, where the client is started as root.
    OwnUser,
    /// TOKEN.
    Token,
}

/// How it is shown that an attempt succeeds where nothing holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// By a client with SANDBOX=off and without TOKEN.
    Off,
    /// By the same lines as the same user, outside of any client, since it is held with SANDBOX=off too.
    Beside,
    /// Not at all: no client has ever let it pass.
    Never,
}

pub struct Attempt {
    pub name: &'static str,
    /// The lines of its `run.sh`. `{names}` are those of `World::names`.
    pub script: &'static str,
    /// The lines of a payload after it that looks for what it left.
    pub next: &'static str,
    /// What must not be there once it has ended.
    pub leaves: &'static str,
    pub held_by: &'static [Layer],
    pub control: Control,
    /// Only root can do it in the first place.
    pub is_for_root: bool,
    /// Kernels and container engines may refuse it by themselves: it must succeed where it does beside the client.
    pub is_up_to_host: bool,
    /// Goes to the client with NETWORK=off.
    pub is_cut_off: bool,
}

const fn attempt(
    name: &'static str,
    control: Control,
    held_by: &'static [Layer],
    script: &'static str,
) -> Attempt {
    Attempt {
        name,
        script,
        next: "",
        leaves: "",
        held_by,
        control,
        is_for_root: false,
        is_up_to_host: false,
        is_cut_off: false,
    }
}

/// What the kernel does for whoever may: system calls, devices, its settings.
const fn call(name: &'static str, held_by: &'static [Layer], script: &'static str) -> Attempt {
    Attempt { is_up_to_host: true, ..attempt(name, Off, held_by, script) }
}

/// The same, for root alone.
const fn root_call(name: &'static str, script: &'static str) -> Attempt {
    call(name, &[Filter, OwnUser], script).for_root()
}

/// A way to something on the network, tried with NETWORK=off.
const fn way_out(name: &'static str, script: &'static str) -> Attempt {
    Attempt { is_cut_off: true, ..call(name, &[Rooms, Filter], script) }
}

impl Attempt {
    const fn then(self, next: &'static str) -> Self {
        Self { next, ..self }
    }

    const fn leaving(self, leaves: &'static str) -> Self {
        Self { leaves, ..self }
    }

    const fn up_to_host(self) -> Self {
        Self { is_up_to_host: true, ..self }
    }

    const fn for_root(self) -> Self {
        Self { is_for_root: true, ..self }
    }
}

/// What keeps the client from another process of its user.
const APART: &[Layer] = &[Always, Rooms, Rules(1), OwnUser];
/// The same for one payload from another, where the process is as open as any.
const APART_FROM_PAYLOADS: &[Layer] = &[Rooms, Rules(1), OwnUser];
/// What Landlock does not see.
const BESIDE_RULES: &[Layer] = &[Rooms, OwnUser];
/// What the filter has to take on where there are no rooms.
const BY_NUMBER: &[Layer] = &[Rooms, Filter, OwnUser];
const SIGNALS: &[Layer] = &[Rooms, Rules(6), OwnUser];

pub const ATTEMPTS: &[Attempt] = &[
    // The client and its guard.
    attempt("client_environment", Beside, APART, r"tr '\0' '\n' </proc/{daemon}/environ"),
    attempt("guard_environment", Beside, APART, r"tr '\0' '\n' </proc/{guard}/environ"),
    attempt("client_memory", Beside, APART, "./attempt open /proc/{daemon}/mem"),
    attempt("client_maps", Beside, APART, "[ -z \"$(cat /proc/{daemon}/maps)\" ] || echo escaped"),
    attempt("client_descriptors", Beside, APART, "./attempt list /proc/{daemon}/fd"),
    attempt("client_descriptor_opened", Beside, APART, "cat /proc/{daemon}/fd/1"),
    attempt("client_root", Beside, APART, "./attempt list /proc/{daemon}/root/"),
    attempt("client_working_directory", Beside, APART, "./attempt list /proc/{daemon}/cwd/"),
    attempt("client_traced", Beside, APART, "./attempt trace {daemon}"),
    attempt("client_memory_read", Beside, APART, "./attempt memory-of {daemon}").up_to_host(),
    attempt("client_descriptor_taken", Beside, APART, "./attempt descriptor-of {daemon}").up_to_host(),
    attempt("guard_traced", Beside, APART, "./attempt trace {guard}"),
    attempt("guard_memory_read", Beside, APART, "./attempt memory-of {guard}").up_to_host(),
    attempt("client_signalled", Off, SIGNALS, "./attempt signals {daemon}"),
    attempt("guard_signalled", Off, SIGNALS, "./attempt signals {guard}"),
    attempt(
        "client_stopped",
        Off,
        SIGNALS,
        "kill -STOP {daemon} && sleep 0.2; grep -q '^State:.T' /proc/{daemon}/status && echo escaped; kill -CONT {daemon}",
    ),
    attempt("client_limits", Off, BY_NUMBER, "./attempt limits-of {daemon}"),
    attempt("client_priority", Off, BY_NUMBER, "./attempt priority-of {daemon}"),
    attempt("client_processors", Off, BY_NUMBER, "./attempt processors-of {daemon}"),
    attempt("client_scheduling", Off, BY_NUMBER, "./attempt scheduling-of {daemon}"),
    attempt("client_disk_priority", Off, BY_NUMBER, "./attempt disk-priority-of {daemon}"),
    attempt(
        "client_given_to_the_oom_killer",
        Beside,
        &[Always, Rooms, OwnUser],
        "./attempt open-to-write /proc/{daemon}/oom_score_adj",
    ),
    // Another payload.
    attempt("payload_environment", Off, APART_FROM_PAYLOADS, r"tr '\0' '\n' </proc/{victim}/environ | grep -q PAYLOAD_ID && echo escaped"),
    attempt("payload_memory", Off, APART_FROM_PAYLOADS, "./attempt open /proc/{victim}/mem"),
    attempt("payload_descriptors", Off, BESIDE_RULES, "./attempt list /proc/{victim}/fd"),
    attempt("payload_root", Off, APART_FROM_PAYLOADS, "cat /proc/{victim}/root{victim_directory}/input.txt"),
    attempt("payload_working_directory", Off, APART_FROM_PAYLOADS, "cat /proc/{victim}/cwd/input.txt"),
    attempt("payload_traced", Off, APART_FROM_PAYLOADS, "./attempt trace {victim}"),
    attempt("payload_memory_read", Off, APART_FROM_PAYLOADS, "./attempt memory-of {victim}").up_to_host(),
    attempt("payload_descriptor_taken", Off, APART_FROM_PAYLOADS, "./attempt descriptor-of {victim}").up_to_host(),
    attempt("payload_signalled", Off, SIGNALS, "./attempt signals {victim}"),
    attempt("payload_ended", Off, SIGNALS, "kill -KILL {victim} && sleep 0.2"),
    attempt("payload_limits", Off, BY_NUMBER, "./attempt limits-of {victim}"),
    attempt("payload_priority", Off, BY_NUMBER, "./attempt priority-of {victim}"),
    attempt("payload_input", Off, APART_FROM_PAYLOADS, "cat {victim_directory}/input.txt"),
    attempt("payload_input_from_here", Off, APART_FROM_PAYLOADS, "ls ..; cat ../*/input.txt"),
    attempt("payload_result", Off, APART_FROM_PAYLOADS, "cat {done_directory}/.orchestrator.out"),
    attempt("payload_names", Off, &[Rooms, Rules(1)], "ls {data} | grep -v \"$(basename \"$PWD\")\" | grep -q . && echo escaped"),
    attempt("payload_input_written", Off, APART_FROM_PAYLOADS, "echo more >>{victim_directory}/input.txt"),
    attempt("payload_input_removed", Off, APART_FROM_PAYLOADS, "rm -f {victim_directory}/spare.txt && [ ! -e {victim_directory}/spare.txt ] && [ -d {victim_directory} ] && echo escaped"),
    attempt("payload_input_truncated", Off, &[Rooms, Rules(3), OwnUser], "./attempt truncate {victim_directory}/input.txt"),
    attempt("payload_input_mode", Off, BESIDE_RULES, "./attempt mode {victim_directory}/input.txt"),
    attempt("payload_input_times", Off, BESIDE_RULES, "./attempt times {victim_directory}/input.txt"),
    attempt("payload_input_attribute", Off, BESIDE_RULES, "./attempt attribute {victim_directory}/input.txt").up_to_host(),
    attempt("payload_input_watched", Off, BESIDE_RULES, "./attempt watch {victim_directory}/input.txt"),
    attempt("records_read", Off, APART_FROM_PAYLOADS, "./attempt list {data}/.orchestrator"),
    // Ways out of the directory.
    attempt("hard_link", Off, APART_FROM_PAYLOADS, "ln {victim_directory}/input.txt stolen && cat stolen"),
    attempt("hard_link_out", Off, APART_FROM_PAYLOADS, "ln attempt {place}/planted-{tag}").leaving("{place}/planted-{tag}"),
    attempt("symbolic_link", Off, APART_FROM_PAYLOADS, "ln -s {victim_directory} stolen && cat stolen/input.txt"),
    attempt("symbolic_link_in_the_zip", Never, &[Always], "ln -s {victim_directory}/input.txt stolen; ln -s {home}/letter letter; ln -s {victim_directory} directory"),
    attempt(
        "renamed_in",
        Off,
        APART_FROM_PAYLOADS,
        "mv {victim_directory}/input.txt stolen && cat stolen; mv stolen {victim_directory}/input.txt",
    ),
    attempt("renamed_out", Off, APART_FROM_PAYLOADS, "mv run.sh {place}/planted-{tag}").leaving("{place}/planted-{tag}"),
    attempt(
        "directory_moved",
        Off,
        APART_FROM_PAYLOADS,
        "here=$PWD; mv \"$here\" {place}/moved-{tag} && echo escaped; mv {place}/moved-{tag} \"$here\"",
    ),
    attempt("root_in_proc", Off, APART_FROM_PAYLOADS, "cat /proc/self/root{victim_directory}/input.txt"),
    attempt("working_directory_in_proc", Off, APART_FROM_PAYLOADS, "cat /proc/self/cwd/../$(basename {victim_directory})/input.txt"),
    attempt("descriptor_of_the_directory_above", Off, APART_FROM_PAYLOADS, "./attempt from-above $(basename {victim_directory})/input.txt"),
    attempt("script_in_memory", Off, APART_FROM_PAYLOADS, "./attempt memory-file {victim_directory}/input.txt"),
    attempt("descriptors_left_open", Beside, &[Always], "./attempt descriptors"),
    // The rest of the machine.
    call("shadow", APART_FROM_PAYLOADS, "[ -s /etc/shadow ] && head -c 1 /etc/shadow >taken && [ -s taken ] && echo escaped").for_root(),
    call(
        "keys_in_etc",
        APART_FROM_PAYLOADS,
        "for key in /etc/ssl/private/* /etc/ssh/ssh_host_*_key; do [ -f \"$key\" ] && head -c 1 \"$key\"; done | grep -q . && echo escaped",
    )
    .for_root(),
    attempt("home", Off, &[Rooms, Rules(1), OwnUser], "cat {home}/letter"),
    attempt("run", Off, &[Rooms, Rules(1), OwnUser], "cat {run}/letter"),
    attempt("token_file", Off, &[Rooms, Rules(1), OwnUser], "cat {token_file}"),
    attempt("home_written", Off, &[Rooms, Rules(1), OwnUser], ": >{home}/planted-{tag}").leaving("{home}/planted-{tag}"),
    attempt("data_written", Off, APART_FROM_PAYLOADS, ": >{data}/planted-{tag}").leaving("{data}/planted-{tag}"),
    attempt("records_written", Off, APART_FROM_PAYLOADS, ": >{data}/.orchestrator/planted-{tag}")
        .leaving("{data}/.orchestrator/planted-{tag}"),
    attempt("beside_data_written", Off, APART_FROM_PAYLOADS, ": >{place}/planted-{tag}").leaving("{place}/planted-{tag}"),
    call("etc_written", APART_FROM_PAYLOADS, ": >/etc/planted-{tag}").leaving("/etc/planted-{tag}").for_root(),
    call("program_written", APART_FROM_PAYLOADS, ": >/usr/local/bin/planted-{tag}")
        .leaving("/usr/local/bin/planted-{tag}")
        .for_root(),
    call("kernel_settings_written", APART_FROM_PAYLOADS, "./attempt open-to-write /proc/sys/kernel/core_pattern").for_root(),
    call("kernel_keys_written", APART_FROM_PAYLOADS, "./attempt open-to-write /proc/sysrq-trigger").for_root(),
    call(
        "control_groups_written",
        APART_FROM_PAYLOADS,
        "for file in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do ./attempt open-to-write $file; done",
    )
    .for_root(),
    call("kernel_log_device", APART_FROM_PAYLOADS, "./attempt open /dev/kmsg").for_root(),
    call("disk_node", &[Rooms, Filter, OwnUser], "./attempt disk-node").for_root(),
    // What stays for the next payload.
    attempt("left_in_tmp", Off, APART_FROM_PAYLOADS, ": >/tmp/left-{tag}; chmod 666 /tmp/left-{tag}")
        .leaving("/tmp/left-{tag}")
        .then("[ -e /tmp/left-{tag} ] && echo escaped; rm -f /tmp/left-{tag}"),
    attempt("left_in_var_tmp", Off, APART_FROM_PAYLOADS, ": >/var/tmp/left-{tag}")
        .leaving("/var/tmp/left-{tag}")
        .then("[ -e /var/tmp/left-{tag} ] && echo escaped; rm -f /var/tmp/left-{tag}"),
    attempt("left_in_shared_memory", Off, APART_FROM_PAYLOADS, ": >/dev/shm/left-{tag}")
        .leaving("/dev/shm/left-{tag}")
        .then("[ -e /dev/shm/left-{tag} ] && echo escaped; rm -f /dev/shm/left-{tag}"),
    attempt("left_in_tmpdir", Beside, &[Always], ": >\"${TMPDIR:-/tmp}/left-{tag}\"")
        .leaving("/tmp/left-{tag}")
        .then("[ -e \"${TMPDIR:-/tmp}/left-{tag}\" ] && echo escaped; rm -f \"${TMPDIR:-/tmp}/left-{tag}\""),
    call("left_as_sysv_memory", &[Rooms], "./attempt shared-memory {tag} >/dev/null")
        .then("./attempt shared-memory-is-there {tag}; ./attempt shared-memory-goes {tag} >/dev/null"),
    call("left_as_message_queue", &[Rooms], "./attempt queue /left-{tag} >/dev/null")
        .then("./attempt queue-is-there /left-{tag}; ./attempt queue-goes /left-{tag} >/dev/null"),
    call("left_as_key", &[Filter], "./attempt key left-{tag} >/dev/null").then("./attempt key-is-there left-{tag}"),
    attempt("left_as_process", Never, &[Always], "(setsid env -i sleep 777{tag} >/dev/null 2>&1 </dev/null &)"),
    attempt(
        "core_file",
        Beside,
        &[Always],
        "sh -c 'kill -ABRT $$'; ls core* >/dev/null 2>&1 && echo escaped",
    )
    .up_to_host(),
    // Rights.
    attempt("new_rights", Beside, &[Always], "grep -q '^NoNewPrivs:.0' /proc/self/status && echo escaped"),
    attempt("setuid_program", Beside, &[Always], "{setuid} user-id"),
    attempt("capabilities", Off, &[Rooms, OwnUser], "grep -q '^Cap\\(Inh\\|Prm\\|Eff\\|Amb\\):.*[1-9a-f]' /proc/self/status && echo escaped").for_root(),
    attempt("files_for_others_to_write", Beside, &[Always], "[ \"$(umask)\" = 0022 ] || echo escaped"),
    attempt("as_dear_as_the_client", Beside, &[Always], "[ \"$(cat /proc/self/oom_score_adj)\" -gt 0 ] || echo escaped"),
    // System calls.
    call("unshare_user", &[Filter], "./attempt unshare-user"),
    call("clone_user", &[Filter], "./attempt clone-user"),
    call("clone3_user", &[Filter], "./attempt clone3-user"),
    call("unshare_user_by_i386", &[Filter], "./attempt unshare-i386"),
    call("unshare_user_by_x32", &[Filter], "./attempt unshare-x32"),
    call("mount_as_own_root", &[Filter], "./attempt mount-as-own-root"),
    root_call("unshare_all", "./attempt unshare-all"),
    root_call("clone_network", "./attempt clone-network"),
    root_call("mount", "./attempt mount"),
    root_call("chroot", "./attempt chroot"),
    root_call("pivot_root", "./attempt pivot-root"),
    root_call("fsopen", "./attempt fsopen"),
    root_call("open_tree", "./attempt open-tree"),
    root_call("open_by_handle_at", "./attempt handle"),
    root_call("clock", "./attempt clock"),
    root_call("host_name", "./attempt host-name"),
    root_call("module", "./attempt module"),
    root_call("load_module", "./attempt load-module"),
    root_call("kexec", "./attempt kexec"),
    root_call("reboot", "./attempt reboot"),
    root_call("swap", "./attempt swap"),
    root_call("accounting", "./attempt accounting"),
    root_call("kernel_log", "./attempt kernel-log"),
    root_call("packets", "./attempt packets"),
    call("io_uring", &[Filter], "./attempt io-uring"),
    call("bpf", &[Filter], "./attempt bpf"),
    call("perf", &[Filter], "./attempt perf"),
    call("userfaultfd", &[Filter], "./attempt userfaultfd"),
    call("typing_into_a_terminal", &[Filter], "./attempt typing"),
    call("vsock", &[Filter], "./attempt vsock"),
    // Services.
    attempt("client_port", Off, &[Token], "./attempt request {port} GET /retrieve/{done}"),
    attempt("payload_ended_by_request", Off, &[Token], "./attempt request {port} POST /kill/{victim_id}"),
    attempt("socket_in_run", Off, &[Rooms], "./attempt local {socket}"),
    attempt("abstract_socket", Off, &[Rules(6)], "./attempt abstract {abstract}"),
    way_out("off_stream", "./attempt stream {stream}"),
    way_out("off_stream_of_ipv6", "./attempt stream-6 {stream_6}"),
    way_out("off_stream_by_fast_open", "./attempt stream-fast {stream}"),
    way_out("off_stream_by_mptcp", "./attempt stream-by-mptcp {stream}"),
    way_out("off_datagram", "./attempt datagram {datagram}"),
    way_out("off_client_port", "./attempt request {port} GET /"),
    way_out("off_vsock", "./attempt vsock"),
    Attempt { held_by: &[Rooms, Rules(6)], ..way_out("off_abstract_socket", "./attempt abstract {abstract}") },
];
