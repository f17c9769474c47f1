//! The `health` command: asks the client on PORT, for images without curl.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::settings::Settings;

/// A client that takes longer is not well.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Far more than a report has.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// Asks. The error is one line for the user.
pub fn ask(settings: &Settings) -> Result<(), String> {
    let hosts = reachable(settings.host);
    let mut failed = String::new();
    for host in hosts {
        let address = SocketAddr::new(host, settings.port);
        match get_health(address) {
            Err(error) => failed = format!("no client answers on {address}: {error}"),
            Ok(answer) => {
                let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
                if head.starts_with("HTTP/1.1 200 ") {
                    return Ok(());
                }
                return Err(format!("the client on {address} is not well: {}", body.trim()));
            }
        }
    }
    Err(failed)
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

fn get_health(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}
