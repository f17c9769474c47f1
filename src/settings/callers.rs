//! Who may call, and where: the values of HOST, UNIX_MODE, ALLOW_FROM and TOKEN.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq as _;

/// The longest path of a Unix socket in bytes: the kernel has room for 108, a NUL included (unix(7)).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The longest token in bytes: with a name before it, it fits into the head of a request many times.
pub(super) const MAX_TOKEN_BYTES: u64 = 1024;

/// Where the client listens.
#[derive(Clone, Debug, PartialEq)]
pub enum Host {
    /// On PORT of this address.
    Address(IpAddr),
    /// On a Unix socket at this absolute path.
    Socket(PathBuf),
}

impl Host {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let Some(path) = text.strip_prefix("unix:") else { return text.parse().ok().map(Self::Address) };
        let is_good = path.len() <= MAX_SOCKET_PATH_BYTES && !path.ends_with('/') && !path.contains('\0');
        (is_good && Path::new(path).is_absolute()).then(|| Self::Socket(path.into()))
    }
}

/// Permission bits as chmod(1) takes them in octal, such as `0660`.
pub(super) fn mode(text: &str) -> Option<u32> {
    let is_octal = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777)
}

/// An address, or all that begin as it does. IPv4 callers of a socket for both families (`::ffff:192.0.2.7`) count as IPv4.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    address: IpAddr,
    /// How many of the first bits count.
    prefix: u32,
}

impl Network {
    /// `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32` or `::ffff:192.0.2.0/120`.
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, prefix)| (a, Some(prefix)));
        let given: IpAddr = address.parse().ok()?;
        let address = given.to_canonical();
        let bits = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits(address),
            Some(text) => {
                let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let prefix: u32 = text.parse().ok().filter(|prefix| is_plain && *prefix <= bits(given))?;
                // Of an IPv4 address written as IPv6 the first 96 bits are fixed.
                prefix.checked_sub(bits(given) - bits(address))?
            }
        };
        Some(Self { address, prefix })
    }

    /// Whether `caller` is of this network.
    pub fn contains(&self, caller: IpAddr) -> bool {
        let differs = match (self.address, caller.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => u128::from(own.to_bits() ^ other.to_bits()) << 96,
            (IpAddr::V6(own), IpAddr::V6(other)) => own.to_bits() ^ other.to_bits(),
            _ => return false,
        };
        differs.leading_zeros() >= self.prefix
    }
}

/// Networks with commas or blanks between them, one at least.
pub(super) fn networks(text: &str) -> Option<Vec<Network>> {
    let parts = text.split(|mark: char| mark == ',' || mark.is_whitespace()).filter(|part| !part.is_empty());
    let networks: Vec<Network> = parts.map(Network::parse).collect::<Option<_>>()?;
    Some(networks).filter(|networks| !networks.is_empty())
}

/// What callers have to know. It is never shown: neither in a log nor in an error.
#[derive(Clone)]
pub struct Token(Vec<u8>);

impl Token {
    /// Printable ASCII without blanks: what `Bearer` and a URL can carry.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let is_good =
            (1..=MAX_TOKEN_BYTES).contains(&(bytes.len() as u64)) && bytes.iter().all(u8::is_ascii_graphic);
        is_good.then(|| Self(bytes.to_owned()))
    }

    /// What a token may be, for the person who sets it.
    pub const ACCEPTS: &str = "1 to 1024 printable ASCII characters without blanks";

    /// Whether `given` is the token. Takes equally long wherever the two differ; that their lengths differ can be told.
    pub fn is(&self, given: &[u8]) -> bool {
        self.0.ct_eq(given).into()
    }

    /// Whether it is so short that somebody may find it by trying.
    pub fn is_short(&self) -> bool {
        self.0.len() < 16
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_an_absolute_path() {
        assert_eq!(Host::parse("::1"), Some(Host::Address("::1".parse().expect("an address"))));
        assert_eq!(Host::parse("unix:/run/a b"), Some(Host::Socket("/run/a b".into())));
        let long = format!("unix:/{}", "x".repeat(MAX_SOCKET_PATH_BYTES));
        for bad in ["unix:", "unix:a", "unix:/a/", "unix:@a", "unix:/", "/run/a", &long, "localhost"] {
            assert_eq!(Host::parse(bad), None, "{bad}");
        }
        assert!(Host::parse(&long[..long.len() - 1]).is_some());
    }

    #[test]
    fn a_mode_is_octal() {
        assert_eq!((mode("0660"), mode("600"), mode("0")), (Some(0o660), Some(0o600), Some(0)));
        for bad in ["", "8", "0o660", "1777", "-1", "+7", "rw", "99999999999"] {
            assert_eq!(mode(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_network_contains_what_begins_as_it_does() {
        let has = |network: &str, caller: &str| {
            Network::parse(network).expect("a network").contains(caller.parse().expect("an address"))
        };
        for (network, inside, outside) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.7", "::ffff:192.0.2.7", "::192.0.2.7"),
            ("192.0.2.0/25", "192.0.2.127", "192.0.2.128"),
            ("192.0.2.77/24", "192.0.2.1", "192.0.3.77"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
            ("::/0", "::1", "::ffff:203.0.113.9"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"),
            ("::1", "::1", "::2"),
            ("::ffff:192.0.2.0/120", "192.0.2.9", "192.0.3.9"),
            ("10.0.0.0/8", "::ffff:10.255.0.1", "11.0.0.1"),
        ] {
            assert!(has(network, inside) && !has(network, outside), "{network}");
        }
        for bad in [
            "",
            "x",
            "1.2.3",
            "1.2.3.4/",
            "1.2.3.4/33",
            "1.2.3.4/-1",
            "1.2.3.4/+1",
            "::/129",
            "::1/x",
            "[::1]",
        ] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
        assert_eq!(Network::parse("::ffff:1.2.3.4/95"), None, "neither IPv4 nor IPv6");
    }

    #[test]
    fn networks_have_commas_or_blanks_between_them() {
        assert_eq!(networks("::1,10.0.0.0/8  127.0.0.1,\n").map(|found| found.len()), Some(3));
        for bad in ["", " , ", "::1;::2", "::1,x"] {
            assert_eq!(networks(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_token_is_told_by_nobody_and_known_by_all_of_it() {
        let token = Token::parse(b"s3cret-token").expect("good");
        assert!(token.is(b"s3cret-token") && token.is_short());
        for other in [&b""[..], b"s3cret-toke", b"s3cret-token ", b"s3cret-tokem", b"S3cret-token"] {
            assert!(!token.is(other));
        }
        assert_eq!(format!("{token:?}"), "Token");
        for bad in [&b""[..], b"a b", b"a\n", b"\xc3\xa9", &[b'x'; 1025]] {
            assert!(Token::parse(bad).is_none());
        }
    }
}
