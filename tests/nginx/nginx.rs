//! A real nginx on a loopback port, with a directory of its own. It reads each body to its end before it passes the request on
//! to a second server block, which answers 200: `X-Upstream` in an answer says that nginx took the request.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::client::wait_for;

pub struct Nginx {
    child: Child,
    pub address: SocketAddr,
    #[allow(dead_code)] // kept until nginx is gone, for its Drop
    dir: TempDir,
}

impl Nginx {
    /// In front of a server of its own.
    pub fn start() -> Self {
        Self::with(configuration)
    }

    /// In front of a client, with the defaults of a proxy.
    pub fn in_front_of(client: SocketAddr) -> Self {
        Self::with(|dir, address| {
            let location = format!("location / {{ proxy_pass http://{client}; }}");
            bare(dir, &format!("server {{ listen {address}; {location} }}"))
        })
    }

    fn with(configuration: impl FnOnce(&Path, SocketAddr) -> String) -> Self {
        let binary = std::env::var_os("NGINX").expect("NGINX has to name the binary of nginx");
        let dir = tempfile::Builder::new().prefix("beside-nginx.").tempdir().unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let config = dir.path().join("nginx.conf");
        fs::write(&config, configuration(dir.path(), address)).unwrap();
        let errors = fs::File::create(dir.path().join("stderr")).unwrap();
        let child = Command::new(binary)
            .arg("-c")
            .arg(&config)
            .arg("-p")
            .arg(dir.path())
            .args(["-e", "error.log"])
            .stdin(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        let mut nginx = Self { child, address, dir };
        wait_for("nginx", || {
            if let Some(status) = nginx.child.try_wait().unwrap() {
                panic!("{status}: {}", fs::read_to_string(nginx.dir.path().join("stderr")).unwrap());
            }
            TcpStream::connect(address).ok()
        });
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One process, so that killing it ends all of it. Defaults, but for places.
fn bare(dir: &Path, servers: &str) -> String {
    let dir = dir.display();
    format!(
        "daemon off;
        master_process off;
        pid {dir}/pid;
        error_log {dir}/error.log crit;
        events {{ worker_connections 512; }}
        http {{
            access_log off;
            client_body_temp_path {dir}/client_body;
            proxy_temp_path {dir}/proxy;
            fastcgi_temp_path {dir}/fastcgi;
            uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            {servers}
        }}"
    )
}

/// Limits no lower than the client's.
fn configuration(dir: &Path, address: SocketAddr) -> String {
    let place = dir.display();
    let servers = format!(
        "
            client_max_body_size 0;
            large_client_header_buffers 4 16k;
            keepalive_requests 100000;
            server {{
                listen {address};
                location / {{
                    proxy_pass http://unix:{place}/upstream;
                    proxy_request_buffering on;
                    proxy_ignore_client_abort on; # a client that has said all closes its side
                    add_header X-Upstream $upstream_status always;
                }}
            }}
            server {{
                listen unix:{place}/upstream;
                location = /health {{
                    if ($request_method = GET) {{ return 200 sentinel; }}
                    return 200 other;
                }}
                location / {{ return 200 other; }}
            }}"
    );
    bare(dir, &servers)
}
