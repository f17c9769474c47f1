//! `stock ADDRESS BODY`: the stock `HttpServer` of `may_minihttp` with its default features and settings, answering every
//! request with one fixed JSON body. It is what the client's own connection loop is compared with; the client itself
//! cannot run on that crate, since no published version exports its decoder.

use std::io;

use may_minihttp::{HttpServer, HttpService, Request, Response};

#[derive(Clone)]
struct Fixed(&'static str);

impl HttpService for Fixed {
    fn call(&mut self, _request: Request, response: &mut Response) -> io::Result<()> {
        response.header("Content-Type: application/json").body(self.0);
        Ok(())
    }
}

fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(address), Some(body)) = (words.next(), words.next()) else {
        return Err(io::Error::other("usage: stock ADDRESS BODY"));
    };
    // The crate wants a body that lives for ever; it does, until the process is killed.
    let server = HttpServer(Fixed(body.leak())).start(address)?;
    server.join().map_err(|_| io::Error::other("the server has panicked"))
}
