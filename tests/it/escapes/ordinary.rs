//! Ordinary work, which must not notice that it is contained: programs as payloads use them, by a client as it is by default.

use std::path::Path;

use super::Host;
use super::table::Layer;
use super::world::{PATH, User, World, is_root};

/// Users that nobody else is.
const WORKER: User = User::Other(61_204);
const SORTER: User = User::Other(61_206);

struct Work {
    name: &'static str,
    /// What it needs of the machine; where that is not there, it is not tried.
    needs: &'static [&'static str],
    /// Ends with exit code 0 and `fine` as its last line.
    script: &'static str,
}

const WORKS: &[Work] = &[
    Work {
        name: "bash",
        needs: &["bash"],
        script: r#"bash -euc 'a=(1 2 3); read -r b < <(echo "${a[@]}"); [ "$b" = "1 2 3" ]; cat <<<here >/dev/null; coproc cat; echo x >&"${COPROC[1]}"; read -r c <&"${COPROC[0]}"; [ "$c" = x ]'"#,
    },
    Work {
        name: "pipes and links of its own",
        needs: &[],
        script: "mkfifo pipe; (echo x >pipe &); [ \"$(cat pipe)\" = x ]; rm pipe; mkdir -p a/b; echo y >a/b/c; ln a/b/c d; ln -s a/b/c e; mv a f; [ \"$(cat d)\" = y ]; mv f/b .; [ -f b/c ]; chmod 700 b; touch -d 2001-01-01 b/c",
    },
    Work {
        name: "output",
        needs: &[],
        script: "echo x >/dev/null; echo y >/dev/stdout; echo z >/dev/stderr; echo w >/dev/fd/1; head -c 1 /dev/zero /dev/urandom >/dev/null",
    },
    Work {
        name: "mktemp",
        needs: &["mktemp"],
        script: "t=$(mktemp); echo x >\"$t\"; [ \"$(cat \"$t\")\" = x ]; d=$(mktemp -d); mv \"$t\" \"$d\"; rm -r \"$d\"; mktemp -p . >/dev/null",
    },
    Work {
        name: "ps",
        needs: &["ps"],
        script: "[ \"$(ps -o pid= -p $$ | tr -d ' ')\" = $$ ]; ps -ef | grep -q '[r]un.sh'",
    },
    Work {
        name: "names",
        needs: &["getent"],
        script: "getent hosts localhost >/dev/null; getent passwd root >/dev/null; id -u >/dev/null; uname -a >/dev/null; date >/dev/null; df . >/dev/null",
    },
    Work {
        name: "processors",
        needs: &["taskset", "nice", "nproc"],
        script: "[ \"$(nproc)\" -ge 1 ]; nice -n 5 true; taskset -c \"$(taskset -pc $$ | sed 's/.*: //; s/[-,].*//')\" true; timeout 5 true; (ulimit -n 64; true)",
    },
    Work {
        name: "awk",
        needs: &["awk"],
        script: "[ \"$(awk 'BEGIN { for (i = 0; i < 10000; i++) s += i; printf \"%d\", s }')\" = 49995000 ]; awk 'BEGIN { \"date\" | getline x; print x | \"cat >/dev/null\" }'",
    },
    Work {
        name: "tar",
        needs: &["tar", "gzip"],
        script: "mkdir -p a/b; echo x >a/b/c; ln -s b/c a/d; chmod 4750 a/b/c || chmod 750 a/b/c; tar czf a.tgz a; mkdir out; tar xzf a.tgz -C out; [ \"$(cat out/a/d)\" = x ]",
    },
    Work {
        name: "git",
        needs: &["git"],
        script: "git init -q a; cd a; echo x >f; git add f; git -c user.name=n -c user.email=e@example.org commit -qm one; cd ..; git clone -q a b; [ \"$(git -C b log --oneline | wc -l)\" = 1 ]",
    },
    Work {
        name: "perl",
        needs: &["perl"],
        script: "perl -e 'use File::Temp qw(tempfile); my ($h, $n) = tempfile(); print $h \"x\"; close $h; exit(-s $n == 1 ? 0 : 1)'; [ \"$(perl -e 'my $p = fork; if (!$p) { exit 3 } waitpid $p, 0; print $? >> 8')\" = 3 ]",
    },
    Work {
        name: "gcc and make",
        needs: &["gcc", "make"],
        script: "printf '#include <stdio.h>\\nint main(void) { puts(\"made\"); return 0; }\\n' >main.c; printf 'main: main.o\\n\\tcc -pipe -o $@ $^\\nmain.o: main.c\\n\\tcc -g -O2 -c -o $@ $^\\n' >Makefile; make -s -j2; [ \"$(./main)\" = made ]",
    },
    Work {
        name: "OpenMP",
        needs: &["gcc"],
        script: "printf '#include <stdio.h>\\nint main(void) { long s = 0;\\n#pragma omp parallel for reduction(+:s)\\nfor (int i = 0; i < 1000; i++) s += i; printf(\"%%ld\", s); return 0; }\\n' >omp.c; gcc -fopenmp -O2 -o omp omp.c; [ \"$(./omp)\" = 499500 ]; [ \"$(OMP_NUM_THREADS=3 OMP_PROC_BIND=true ./omp)\" = 499500 ]",
    },
    Work {
        name: "temporary files of python",
        needs: &["python3"],
        script: "cat >t.py <<'P'\nimport tempfile, os, shutil\nwith tempfile.NamedTemporaryFile() as f:\n    f.write(b'x'); f.flush(); assert os.path.getsize(f.name) == 1\nwith tempfile.TemporaryFile() as f: f.write(b'x')\nd = tempfile.mkdtemp(); shutil.move('t.py', d); shutil.copy(os.path.join(d, 't.py'), 'copy.py'); shutil.rmtree(d)\nP\npython3 t.py",
    },
    Work {
        name: "venv of python",
        needs: &["python3"],
        script: "python3 -c 'import venv' && python3 -m venv --without-pip v && v/bin/python -c 'import sys; assert sys.prefix != sys.base_prefix'",
    },
    Work {
        name: "terminal of python",
        needs: &["python3"],
        script: "python3 -c \"import pty, sys; sys.exit(pty.spawn(['sh', '-c', 'test -t 1']))\"",
    },
    Work {
        name: "ssl and loopback of python",
        needs: &["python3", "openssl"],
        script: "openssl req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out c.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost -days 2 2>/dev/null\ncat >s.py <<'P'\nimport socket, ssl, threading\nserver = socket.create_server(('127.0.0.1', 0))\ncontext = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain('c.pem', 'k.pem')\ndef serve():\n    peer, _ = server.accept()\n    with context.wrap_socket(peer, server_side=True) as tls: tls.sendall(b'hello')\nthreading.Thread(target=serve, daemon=True).start()\nplain = socket.create_connection(('localhost', server.getsockname()[1]), 10)\nwith ssl.create_default_context(cafile='c.pem').wrap_socket(plain, server_hostname='localhost') as tls: assert tls.recv(5) == b'hello'\nssl.create_default_context()\nsocket.getaddrinfo('localhost', 80)\nP\npython3 s.py",
    },
    Work { name: "node", needs: &["node"], script: "[ \"$(node -e 'console.log(1 + 1)')\" = 2 ]" },
    Work { name: "java", needs: &["java"], script: "java -version 2>/dev/null" },
];

/// Needs room for temporary files on the disk.
const SORT: Work = Work {
    name: "sort of 200 MB",
    needs: &["sort", "base64"],
    script: "head -c 150000000 /dev/urandom | base64 >big; LC_ALL=C sort -S 16M big -o sorted; LC_ALL=C sort -c sorted; [ \"$(wc -c <big)\" = \"$(wc -c <sorted)\" ]; rm big sorted",
};

/// Its locks are files in /dev/shm, which is writable where rooms or user ids keep it apart, and else where it is allowed.
const MULTIPROCESSING: Work = Work {
    name: "multiprocessing of python",
    needs: &["python3"],
    script: "cat >m.py <<'P'\nimport multiprocessing as m, os\nfrom multiprocessing import shared_memory\nif __name__ == '__main__':\n    for way in ('fork', 'spawn'):\n        context = m.get_context(way)\n        with context.Pool(2) as pool: assert sum(pool.map(abs, range(-5, 5))) == 25\n        with context.Manager() as manager: assert list(manager.list([1, 2])) == [1, 2]\n    s = shared_memory.SharedMemory(create=True, size=4096); s.buf[0] = 1; s.close(); s.unlink()\n    lock = m.Lock(); lock.acquire(); lock.release()\n    assert os.cpu_count() >= 1\nP\npython3 m.py",
};

fn is_here(program: &str) -> bool {
    PATH.split(':').any(|directory| Path::new(directory).join(program).exists())
}

fn goes_on(user: User, works: &[Work], settings: &[(&str, &str)]) {
    let world = World::new(user, settings);
    let mut failed = Vec::new();
    for work in works {
        let is_here = work.needs.iter().all(|program| is_here(program));
        println!("{}: {}", work.name, if is_here { "tried" } else { "not here" });
        if is_here {
            let traces = world.run(&format!("set -e\n{}\necho fine", work.script), false);
            if traces.output.lines().last() != Some("fine") {
                let errors = traces.files.iter().find(|(name, _)| name == ".orchestrator.err").unwrap();
                let errors = String::from_utf8_lossy(&errors.1);
                failed.push(format!("{}: {} {errors} {}", work.name, traces.output, traces.json));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}\n{}", world.isolation());
}

#[test]
fn ordinary_work_of_an_ordinary_user_goes_on() {
    goes_on(if is_root() { WORKER } else { User::Tester }, WORKS, &[]);
}

#[test]
fn ordinary_work_of_root_s_client_goes_on() {
    if is_root() {
        goes_on(User::Tester, WORKS, &[]);
        goes_on(User::Tester, &[MULTIPROCESSING], &[]);
    }
}

#[test]
fn a_sort_of_200_mb_goes_on() {
    goes_on(if is_root() { SORTER } else { User::Tester }, &[SORT], &[]);
}

#[test]
fn multiprocessing_of_an_ordinary_user_goes_on() {
    let user = if is_root() { WORKER } else { User::Tester };
    let has_own = Host::of(user).gives(Layer::Rooms);
    goes_on(user, &[MULTIPROCESSING], if has_own { &[] } else { &[("ALLOW_WRITE", "/dev/shm")] });
}
