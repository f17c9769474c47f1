//! The model (`tests/model`) is held to what it is for: each of these tests does harm behind the client's back, which the model
//! must notice. The first does none.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr, reason = "tests")]

#[path = "model/book.rs"]
#[allow(dead_code, reason = "the model uses more of it")]
mod book;
#[path = "model/callers.rs"]
#[allow(dead_code, reason = "the model uses more of it")]
mod callers;
#[path = "it/client.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod client;
#[path = "model/life.rs"]
#[allow(dead_code, reason = "the model uses more of it")]
mod life;
#[path = "model/payloads.rs"]
#[allow(dead_code, reason = "the model uses more of it")]
mod payloads;
#[path = "soak/processes.rs"]
#[allow(dead_code, reason = "the soak uses more of it")]
mod processes;
#[path = "soak/program.rs"]
#[allow(dead_code, reason = "the programs use more of it")]
mod program;
#[path = "it/wire.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod wire;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use book::{Book, Trouble};
use callers::World;
use client::wait_for;
use life::{Life, Place, Start};
use payloads::Kind;
use rustix::process::Signal;

/// A client and its model, without callers.
struct Stage {
    world: World,
    life: Life,
}

fn settings() -> Start {
    let settings =
        vec![("MAX_JOBS", "1".to_owned()), ("KILL_GRACE", "1".to_owned()), ("GRACE", "1".to_owned())];
    Start { settings, ..Start::default() }
}

impl Stage {
    fn new() -> Self {
        let place = Place::new(None, None);
        let book = Book::new(place.witness.clone(), None, 1);
        let world = World::new(place, book);
        let life = Self::start(&world);
        Self { world, life }
    }

    fn start(world: &World) -> Life {
        let life = world.place.start(world.next_life(), &settings()).unwrap();
        world.is_up(&life);
        life
    }

    /// Submits a payload. Gives its place in the book.
    fn submit(&self, kind: Kind) -> usize {
        assert!(self.world.submit(kind, fastrand::u64(..)));
        self.world.book().entries.len() - 1
    }

    fn look_until_ended(&self, index: usize) {
        wait_for("an end", || {
            self.world.look(index);
            self.world.book().entries[index].has_ended().then_some(())
        });
    }

    fn completed(&self, kind: Kind) -> usize {
        let index = self.submit(kind);
        self.look_until_ended(index);
        let book = self.world.book();
        assert!(book.entries[index].is_completed(), "{:?}", book.violations);
        index
    }

    fn directory(&self, index: usize) -> PathBuf {
        let token = self.world.book().entries[index].token.to_string();
        let entries = fs::read_dir(&self.world.place.data).unwrap().map(|entry| entry.unwrap().path());
        let has_token =
            |path: &PathBuf| fs::read_to_string(path.join("token")).is_ok_and(|text| text == token);
        entries.into_iter().find(has_token).unwrap()
    }

    /// Ends the client without a word, does this, and starts the client anew.
    fn crash(&mut self, meanwhile: impl FnOnce()) {
        self.world.crash();
        self.life.wait();
        meanwhile();
        self.life = Self::start(&self.world);
    }

    /// What the model has noticed in the end.
    fn violations(mut self) -> Vec<String> {
        let all = self.world.book().entries.len();
        for index in 0..all {
            let kind = self.world.book().entries[index].kind;
            if matches!(kind, Kind::Endless { .. }) {
                self.world.kill(index);
            }
            self.look_until_ended(index);
        }
        self.world.take_down();
        self.world.book().begin(Trouble::Stop);
        self.life.signal(Signal::TERM);
        assert_eq!(self.life.wait().unwrap().code(), Some(0));
        let (_place, mut book) = self.world.into_parts();
        book.close();
        book.violations
    }

    #[track_caller]
    fn must_notice(self, what: &str) {
        let violations = self.violations();
        let is_noticed = violations.iter().any(|violation| violation.contains(what));
        assert!(is_noticed, "not noticed: {what}; but {violations:#?}");
    }
}

#[test]
fn without_harm_it_notices_nothing() {
    let mut stage = Stage::new();
    let well =
        [Kind::Quick, Kind::Nap(10), Kind::Bulk(300), Kind::Deep, Kind::Many(20), Kind::Odd, Kind::Family];
    let badly = [Kind::Code(7), Kind::Forger, Kind::Signal(9), Kind::NoScript, Kind::NoInterpreter];
    let kinds = well.into_iter().chain(badly).chain([Kind::Endless { is_stubborn: true }]);
    let all: Vec<usize> = kinds.map(|kind| stage.submit(kind)).collect();
    let killed = *all.last().unwrap();
    assert!(stage.world.kill(killed) && stage.world.kill(killed));
    for index in &all {
        stage.look_until_ended(*index);
        stage.world.retrieve_partially(*index);
    }
    stage.crash(|| {});
    for index in &all {
        stage.world.look(*index);
        stage.world.retrieve_partially(*index);
    }
    assert_eq!(stage.violations(), [""; 0]);
}

#[test]
fn it_notices_a_file_removed_from_a_result() {
    let stage = Stage::new();
    let index = stage.completed(Kind::Deep);
    fs::remove_file(stage.directory(index).join("d/d/d/f")).unwrap();
    stage.world.look(index);
    stage.must_notice("has a ZIP without d/d/d/f");
}

#[test]
fn it_notices_a_byte_changed_in_a_result() {
    let stage = Stage::new();
    let index = stage.completed(Kind::Bulk(100));
    let path = stage.directory(index).join("a/copy");
    let mut bytes = fs::read(&path).unwrap();
    bytes[70_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    stage.world.look(index);
    stage.must_notice("has other bytes in a/copy");
}

#[test]
fn it_notices_a_result_that_is_cut_and_does_not_look_so() {
    let stage = Stage::new();
    let index = stage.completed(Kind::Quick);
    let id = stage.world.book().entries[index].id;
    let asked = Instant::now();
    let mut answer = stage.world.get(&format!("/retrieve/{id}")).unwrap();
    answer.body.truncate(answer.body.len() - 30);
    stage.world.book().retrieved(index, asked, 1, Ok(answer));
    stage.must_notice("has a broken ZIP");
}

#[test]
fn it_notices_a_payload_that_is_run_twice() {
    let stage = Stage::new();
    let index = stage.completed(Kind::Quick);
    let directory = stage.directory(index);
    let again = Command::new("./run.sh").current_dir(directory).env("MODEL_LIFE", "1").status();
    assert!(again.unwrap().success());
    stage.must_notice("has run more than once");
}

#[test]
fn it_notices_a_kill_that_is_undone() {
    let mut stage = Stage::new();
    let first = stage.submit(Kind::Endless { is_stubborn: false });
    let waiting = stage.submit(Kind::Nap(100));
    let data = stage.world.place.data.clone();
    let before = data.with_file_name("before");
    let run = |program: &str, arguments: &[&PathBuf]| {
        assert!(Command::new(program).args(arguments).status().unwrap().success());
    };
    // The disk as it was before the kill.
    run("cp", &[&"-a".into(), &data, &before]);
    assert!(stage.world.kill(waiting) && stage.world.kill(first));
    stage.crash(|| {
        run("rm", &[&"-r".into(), &data]);
        run("mv", &[&before, &data]);
    });
    wait_for("its run", || {
        let token = stage.world.book().entries[waiting].token;
        stage.world.place.witness.join(token.to_string()).exists().then_some(())
    });
    stage.must_notice("has run after its kill was answered");
}

#[test]
fn it_notices_an_id_that_is_given_twice() {
    let stage = Stage::new();
    let index = stage.submit(Kind::Quick);
    let id = stage.world.book().entries[index].id;
    let head = "HTTP/1.1 200 OK\r\n\r\n".to_owned();
    let body = format!(r#"{{"id":{id},"status":"Prepared"}}"#).into_bytes();
    let answer = wire::Answer { status: 200, head, body };
    stage.world.book().submitted((Kind::NoScript, 1), Instant::now(), Ok(answer));
    let violations = stage.world.book().violations.clone();
    assert!(violations[0].contains("was given twice"), "{violations:?}");
}

#[test]
fn it_notices_a_process_that_is_left() {
    let stage = Stage::new();
    let index = stage.submit(Kind::Quick);
    wait_for("its end", || {
        let answer = stage.world.get("/health").unwrap();
        let is_idle = ["waiting", "running"].iter().all(|field| answer.json(field).as_deref() == Some("0"));
        is_idle.then_some(())
    });
    let id = stage.world.book().entries[index].id;
    let mut left = Command::new("sleep")
        .arg("1000")
        .env("PAYLOAD_ID", id.to_string())
        .env("PAYLOAD_DIR", stage.directory(index))
        .spawn()
        .unwrap();
    stage.world.look(index);
    left.kill().unwrap();
    left.wait().unwrap();
    stage.must_notice("has ended and left processes");
}
