//! Jobs that end well: what was uploaded arrives at the job, what the job wrote arrives at the user.

use crate::rig::{Rig, SOON, Wiring, poll};
use crate::user::{Answer, Job};

#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn a_user_gets_what_the_job_wrote_as_a_zip() {
    let rig = Rig::start();
    let job = Job::of(
        "tr a-z A-Z < in.txt > out.txt
         mkdir -p sub/deeper empty
         echo nested > sub/deeper/file",
    )
    .file("in.txt", "hello");

    let outputs = rig.wait_for_results(rig.upload(&job));

    assert_eq!(outputs.text("out.txt"), "HELLO");
    assert_eq!(outputs.text("sub/deeper/file"), "nested");
    assert_eq!(outputs.text("in.txt"), "hello");
    assert_eq!(outputs.text(".orchestrator.exit"), "0");
    assert!(outputs.path("empty").is_dir());
    assert!(outputs.has("run.sh"));
}

#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn results_can_be_downloaded_again() {
    let rig = Rig::start();
    let id = rig.upload(&Job::of("echo once > out.txt; date +%N > when.txt"));

    let first = rig.wait_for_results(id);
    let second = rig.wait_for_results(id);

    assert_eq!(first.text("when.txt"), second.text("when.txt"));
}

#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn a_partial_download_shows_what_a_running_job_has_written() {
    let rig = Rig::start();
    let id = rig.upload(&Job::of(&format!("echo half > progress.txt; {}; echo whole > end.txt", rig.hold())));

    // Until the server has handed the job on, it answers 404.
    let partial = poll("a partial download shows progress", SOON, || match rig.download_partial(id) {
        Answer::Zip(outputs) if outputs.has("progress.txt") => Some(outputs),
        Answer::Zip(_) | Answer::Notice(404, _) => None,
        Answer::Notice(code, notice) => panic!("{code}: {notice:?}"),
    });
    assert_eq!(partial.text("progress.txt"), "half");
    assert!(!partial.has("end.txt"));
    rig.wait_for_status(id, "Running");

    rig.release();
    assert_eq!(rig.wait_for_results(id).text("end.txt"), "whole");
    assert_eq!(rig.partial_outputs(id).text("end.txt"), "whole");
}

#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn file_names_with_spaces_and_letters_of_any_script_survive() {
    // The server sends these as `name*=utf-8''...`, where `;` and `'` stand as they are.
    let names = [
        "in put.txt",
        "Röntgen größe.txt",
        "日本語 ファイル.txt",
        "emoji 🧪.txt",
        "50% of it; a+b=c & 'd', e.txt",
        "x; filename=y.txt",
        "-dash.txt",
        ".hidden.txt",
        "trailing dot.",
    ];
    let rig = Rig::start();
    let mut job = Job::of("mkdir 'ausgänge ü'; for f in ./*.txt; do cat \"$f\" > \"ausgänge ü/$f\"; done");
    for name in names {
        job = job.file(name, &format!("content of {name}"));
    }

    let outputs = rig.wait_for_results(rig.upload(&job));

    for name in names {
        assert_eq!(outputs.text(name), format!("content of {name}"));
    }
    for name in names.iter().filter(|name| !name.starts_with('.') && !name.ends_with('.')) {
        assert_eq!(outputs.text(&format!("ausgänge ü/{name}")), format!("content of {name}"));
    }
}

#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn credentials_in_the_service_url_do_no_harm() {
    let rig = Rig::wired(Wiring { credentials: "user:p%40ss%3Aword@", ..Wiring::default() });
    let id = rig.upload(&Job::of("echo done > out.txt"));

    assert_eq!(rig.wait_for_results(id).text("out.txt"), "done");
    assert_eq!(rig.partial_outputs(id).text("out.txt"), "done");
    assert_eq!(rig.terminate(id).0, 200);
}

/// Not so with the server's own client, which asks nobody for anything.
#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn a_token_in_the_service_url_opens_the_client_and_nothing_else_does() {
    let token = Some("p@ss:w0rd/with%marks");
    let credentials = "any:p%40ss%3Aw0rd%2Fwith%25marks@";
    let rig = Rig::wired(Wiring { credentials, token, ..Wiring::default() });
    let id = rig.upload(&Job::of("echo done > out.txt"));

    assert_eq!(rig.wait_for_results(id).text("out.txt"), "done");
    let held = rig.upload(&Job::of(&rig.hold()));
    rig.wait_for_status(held, "Running");
    assert_eq!(rig.terminate(held).0, 200);
    rig.wait_for_status(held, "Killed");

    let shut = Rig::wired(Wiring { credentials: "any:wrong@", token, ..Wiring::default() });
    let refused = shut.upload(&Job::of("echo done > out.txt"));
    poll("the client's refusal", SOON, || {
        shut.client_log().contains("no token, or a wrong one").then_some(())
    });
    assert_eq!(
        std::fs::read_dir(shut.client_data())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().join("run.sh").exists())
            .count(),
        0
    );
    assert!(matches!(shut.download(refused), Answer::Notice(..)));
}

/// Not so with the server's own client, which wants the trap.
#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn a_script_needs_no_trap_and_what_it_prints_is_among_the_results() {
    let rig = Rig::start();
    let job = Job::new().file("run.sh", "#!/bin/sh\necho to stdout\necho to stderr >&2\n");

    let outputs = rig.wait_for_results(rig.upload(&job));

    assert_eq!(outputs.text(".orchestrator.out"), "to stdout");
    assert_eq!(outputs.text(".orchestrator.err"), "to stderr");
    assert_eq!(outputs.text(".orchestrator.exit"), "0");
}

/// Not so with the server's own client, whose ZIP makes every file 0755 and follows links.
#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn permissions_and_links_come_back_as_the_job_left_them() {
    let rig = Rig::start();
    let job = Job::of("echo x > secret; chmod 0600 secret; echo x > tool; chmod 0750 tool; ln -s tool link");

    let outputs = rig.wait_for_results(rig.upload(&job));

    assert_eq!(outputs.mode("secret"), 0o600);
    assert_eq!(outputs.mode("tool"), 0o750);
    assert_eq!(outputs.path("link").read_link().unwrap().to_str(), Some("tool"));
}
