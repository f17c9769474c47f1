//! `stock ADDRESS`: the hello-world of `may_minihttp`, with the stock `HttpServer` at its default features and settings.
//! It is what the client's own connection loop is compared with; the client itself cannot run on that crate, since no
//! published version exports its decoder.

use std::io;

use may_minihttp::{HttpServer, HttpService, Request, Response};

#[derive(Clone)]
struct HelloWorld;

impl HttpService for HelloWorld {
    fn call(&mut self, _request: Request, response: &mut Response) -> io::Result<()> {
        response.body("Hello, world!");
        Ok(())
    }
}

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).ok_or_else(|| io::Error::other("usage: stock ADDRESS"))?;
    let server = HttpServer(HelloWorld).start(address)?;
    server.join().map_err(|_| io::Error::other("the server has panicked"))
}
