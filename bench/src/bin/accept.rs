//! `accept ADDRESS`: accepts, reads, writes one fixed answer and closes, on one thread a core: what the kernel alone lets
//! through of requests that each come on a connection of their own.

use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"status\":\"ok\"}";

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).ok_or_else(|| io::Error::other("usage: accept ADDRESS"))?;
    let listener = TcpListener::bind(address)?;
    for _ in 1..thread::available_parallelism()?.get() {
        let listener = listener.try_clone()?;
        thread::spawn(move || serve(&listener));
    }
    serve(&listener)
}

fn serve(listener: &TcpListener) -> io::Result<()> {
    let mut head = [0; 4096];
    loop {
        let (mut stream, _) = listener.accept()?;
        // A caller that has gone costs itself its answer, nothing else.
        let _ = stream.read(&mut head).and_then(|_| stream.write_all(ANSWER));
    }
}
