//! Jobs that end otherwise: they fail, cannot start, are terminated, or lose their client.
//! Whatever happens, the server must come to know, or else its user waits for ever.

use std::path::Path;

use crate::rig::{Rig, SOON, Wiring, poll};
use crate::user::{Answer, Job};

#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn a_failing_job_is_reported_with_its_exit_code() {
    let rig = Rig::start();
    let id = rig.upload(&Job::of("echo so far > out.txt; exit 3"));

    rig.wait_for_status(id, "Failed");

    // The server's notice has no room for the code; the partial download does.
    let outputs = rig.partial_outputs(id);
    assert_eq!(outputs.text(".orchestrator.exit"), "3");
    assert_eq!(outputs.text("out.txt"), "so far");
}

#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn a_job_without_run_sh_is_invalid_and_keeps_its_files() {
    let rig = Rig::start();
    let id = rig.upload(&Job::new().file("input.txt", "hello"));

    rig.wait_for_status(id, "Invalid");

    assert_eq!(rig.partial_outputs(id).text("input.txt"), "hello");
}

/// Not so with the server's own client, which runs any script by bash.
#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn a_job_whose_interpreter_is_missing_is_failed() {
    let rig = Rig::start();
    let id = rig.upload(&Job::new().file("run.sh", "#!/no/such/interpreter\n"));

    rig.wait_for_status(id, "Failed");

    assert!(rig.partial_outputs(id).has("run.sh"), "the client did not take the job");
}

/// Not so with the server's own client, which takes the user's file for the job's end.
#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn a_job_that_brings_its_exit_code_along_is_failed() {
    let rig = Rig::start();
    let id = rig.upload(&Job::of("true").file(".orchestrator.exit", "0"));

    rig.wait_for_status(id, "Failed");

    assert!(matches!(rig.download_partial(id), Answer::Notice(404, _)), "the client took the job");
}

#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn terminate_ends_a_running_job() {
    let rig = Rig::start();
    let id = rig.upload(&Job::of(&format!("echo half > progress.txt; {}; echo whole > end.txt", rig.hold())));
    rig.wait_for_status(id, "Running");

    assert_eq!(rig.terminate(id), (200, "job terminated".into()));

    rig.wait_for_status(id, "Killed");
    assert_eq!(rig.partial_outputs(id).text("progress.txt"), "half");
    // What the server does next shows that it has not come back to the job: this one runs through meanwhile.
    rig.release();
    let next = rig.upload(&Job::of("echo next > out.txt"));
    assert_eq!(rig.wait_for_results(next).text("out.txt"), "next");
    assert_eq!(rig.status(id), "Killed");
    assert!(!rig.partial_outputs(id).has("end.txt"));
}

/// Not so with the server's own client, which signals the shell alone.
#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn terminate_ends_everything_that_the_job_started() {
    let rig = Rig::start();
    let hold = rig.hold();
    let job = Job::of(&format!("({hold}) & echo $! > child.pid; setsid sh child.sh & {hold}"))
        .file("child.sh", &format!("echo $$ > own-session.pid; {hold}"));
    let id = rig.upload(&job);
    rig.wait_for_status(id, "Running");
    let started = poll("the job has started both children", SOON, || {
        let outputs = rig.partial_outputs(id);
        ["child.pid", "own-session.pid"]
            .iter()
            .all(|file| outputs.has(file) && !outputs.text(file).is_empty())
            .then_some(outputs)
    });
    let processes = ["child.pid", "own-session.pid"].map(|file| format!("/proc/{}", started.text(file)));
    assert!(processes.iter().all(|process| Path::new(process).exists()));

    assert_eq!(rig.terminate(id), (200, "job terminated".into()));

    poll("nothing of the job is left", SOON, || {
        processes.iter().all(|process| !Path::new(process).exists()).then_some(())
    });
}

/// Not so with the server's own client, which starts whatever comes at once.
#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn a_job_terminated_while_it_waits_at_the_client_never_starts() {
    let rig = Rig::wired(Wiring { max_jobs: Some(1), ..Wiring::default() });
    let running = rig.upload(&Job::of(&format!("{}; echo ran > out.txt", rig.hold())));
    rig.wait_for_status(running, "Running");
    let waiting = rig.upload(&Job::of("echo ran > out.txt"));
    rig.wait_for_status(waiting, "Prepared");

    assert_eq!(rig.terminate(waiting), (200, "job terminated".into()));
    rig.wait_for_status(waiting, "Killed");

    let last = rig.upload(&Job::of("echo ran > out.txt"));
    rig.release();
    assert_eq!(rig.wait_for_results(running).text("out.txt"), "ran");
    assert_eq!(rig.wait_for_results(last).text("out.txt"), "ran");
    assert_eq!(rig.status(waiting), "Killed");
    assert_eq!(rig.partial_outputs(waiting).names(), ["run.sh"]);
}

/// The server has no id of the client's for it yet and asks to kill 0, which must hit nothing.
#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn terminate_of_a_job_still_queued_at_the_server_harms_no_other() {
    let rig = Rig::wired(Wiring { max_runs: 1, ..Wiring::default() });
    let running = rig.upload(&Job::of(&format!("{}; echo ran > out.txt", rig.hold())));
    rig.wait_for_status(running, "Running");
    let queued = rig.upload(&Job::of("echo ran > out.txt"));

    assert_eq!(rig.terminate(queued), (500, "could not terminate job".into()));
    assert_eq!(rig.status(queued), "Queued");

    rig.release();
    assert_eq!(rig.wait_for_results(running).text("out.txt"), "ran");
    assert_eq!(rig.wait_for_results(queued).text("out.txt"), "ran");
}

/// The server goes on asking for the first job by the id that the client gave it before the restart.
#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn after_a_restart_of_the_client_no_job_gets_the_results_of_another() {
    let rig = Rig::start();
    let first = rig.upload(&Job::of(&format!("echo first > out.txt; {}", rig.hold())));
    rig.wait_for_status(first, "Running");

    rig.restart_client();
    let second = rig.upload(&Job::of("echo second > out.txt"));
    assert_eq!(rig.wait_for_results(second).text("out.txt"), "second");
    // Once the server has the results of a third, it has asked for the first again.
    let third = rig.upload(&Job::of("echo third > out.txt"));
    assert_eq!(rig.wait_for_results(third).text("out.txt"), "third");

    for answer in [rig.download(first), rig.download_partial(first)] {
        match answer {
            Answer::Zip(outputs) => assert_eq!(outputs.text("out.txt"), "first"),
            Answer::Notice(_, notice) => assert_ne!(notice.status, "Completed"),
        }
    }
}
