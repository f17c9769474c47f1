//! The `health` command: asks the client on HOST and PORT, for images without curl.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::settings::{Host, Settings};

/// A client that takes longer is not well.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Far more than a report has.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// Asks. The error is one line for the user.
pub fn ask(settings: &Settings) -> Result<(), String> {
    let asked: Vec<(String, io::Result<String>)> = match &settings.host {
        Host::Socket(path) => vec![(format!("unix:{}", path.display()), get_by_path(path))],
        Host::Address(host) => {
            let mut asked = Vec::new();
            for host in reachable(*host) {
                let address = SocketAddr::new(host, settings.port);
                let answer = get_by_address(address);
                let is_there = answer.is_ok();
                asked.push((address.to_string(), answer));
                if is_there {
                    break;
                }
            }
            asked
        }
    };
    match asked.into_iter().next_back() {
        None => Err("there is no address to ask".to_owned()),
        Some((address, Err(error))) => Err(format!(
            "no client answers on {address}: {error}; HOST and PORT say where it is asked: give them as the client has them"
        )),
        Some((address, Ok(answer))) => {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
            if head.starts_with("HTTP/1.1 200 ") {
                return Ok(());
            }
            Err(format!("the client on {address} is not well: {}", body.trim()))
        }
    }
}

/// A client that listens on all addresses is asked on the loopback ones, first on that which most machines have.
fn reachable(host: IpAddr) -> Vec<IpAddr> {
    match host {
        IpAddr::V4(address) if address.is_unspecified() => vec![Ipv4Addr::LOCALHOST.into()],
        IpAddr::V6(address) if address.is_unspecified() => {
            vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]
        }
        other => vec![other],
    }
}

fn get_by_address(address: SocketAddr) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    get_health(stream, &address.to_string())
}

fn get_by_path(path: &Path) -> io::Result<String> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    get_health(stream, "localhost")
}

fn get_health(mut stream: impl Read + Write, host: &str) -> io::Result<String> {
    let request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}
