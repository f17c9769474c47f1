//! `GET /metrics`: what a monitoring system watches, as Prometheus or OpenMetrics text.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Api, Route};
use crate::clock::{UnixMs, now_ms};
use crate::disk_threads::Disk;
use crate::host::{process, sensors};
use crate::http::{Answered, HttpError, Method, Request, Response, wait_for_disk};
use crate::metrics::{self as counted, Form, Histogram, Text};
use crate::payload::Status;
use crate::runner::Obstacle;

/// What monitoring needs beside what is counted elsewhere; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
}

struct Shared {
    slots: usize,
    started_at: UnixMs,
    /// Of its own: where the disk hangs, it is asked for all the more.
    thread: Disk,
    /// Answers by route, method and status: all three are words of this program, so their number is bounded.
    requests: Mutex<BTreeMap<(&'static str, &'static str, u16), u64>>,
    /// By the same routes.
    took: [(&'static str, Histogram); ROUTES.len()],
}

/// All routes by their names, and what is none of them.
const ROUTES: [&str; 15] = [
    "/",
    "/health",
    "/ready",
    "/load",
    "/metrics",
    "/submit",
    "/retrieve/{id}",
    "/retrieve_partial/{id}",
    "/kill/{id}",
    "/payloads/{id}/logs",
    "/payloads",
    "/payloads/{id}",
    "/payloads/{id}/files",
    "/payloads/{id}/files/{path}",
    NO_ROUTE,
];

/// Of requests whose path is none, or whose head was not understood.
const NO_ROUTE: &str = "none";

impl Metrics {
    /// For a client that has just been started, with so many slots.
    pub fn new(slots: usize) -> Self {
        let shared = Shared {
            slots,
            started_at: now_ms(),
            thread: Disk::of_few(1),
            requests: Mutex::default(),
            took: ROUTES.map(|route| (route, Histogram::new(counted::SHORT))),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes note of an answer.
    pub(super) fn count(&self, answered: &Answered<'_>) {
        let route = answered.head.and_then(|(_, _, path)| Route::of(path));
        let route = route.map_or(NO_ROUTE, |route| route.name());
        let method = match answered.head {
            Some((_, true, _)) => "HEAD",
            Some((Method::Get, ..)) => "GET",
            Some((Method::Post, ..)) => "POST",
            Some((Method::Delete, ..)) => "DELETE",
            Some((Method::Other(_), ..)) | None => "other",
        };
        let requests = &self.shared.requests;
        *requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((route, method, answered.status))
            .or_default() += 1;
        if let Some((_, took)) = self.shared.took.iter().find(|(name, _)| *name == route) {
            took.add(answered.took);
        }
    }
}

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn get(api: &Api, request: &Request<'_, '_>) -> Result<Response, HttpError> {
    let form = Form::wanted(request.fields.get("accept").unwrap_or_default());
    let this = api.clone();
    // Drivers of sensors may take a moment.
    let text =
        wait_for_disk(&api.metrics.shared.thread, &api.watch, api.disk_timeout, move || this.tell(form));
    let text = text.map_err(|error: io::Error| {
        let message = format!("The client cannot look at its host now ({error}); ask again later.");
        HttpError::new(503, "no_thread", message).retry_after(super::RETRY_AFTER_S)
    })?;
    Ok(Response::text(form.content_type(), text).header("Cache-Control", "no-store"))
}

impl Api {
    fn tell(&self, form: Form) -> String {
        let mut text = Text::new(form);
        self.tell_payloads(&mut text);
        self.tell_requests(&mut text);
        self.tell_disk(&mut text);
        self.tell_process(&mut text);
        self.tell_host(&mut text);
        text.finish()
    }

    fn tell_payloads(&self, text: &mut Text) {
        let counts = self.store.counts().unwrap_or_default();
        let by_word = |all: &counted::ByWord| all.get().into_iter().map(|(word, count)| ([word], count));
        text.counters(
            "payloads",
            "Payloads by the status that they have got since the start of the client.",
            &["status"],
            // Each is there from the start on: of a counter that begins with 1, nobody sees that it has risen.
            Status::ALL.map(|status| ([status.word()], counted::PAYLOADS.count(status.word()))),
        );
        text.gauge("payloads_waiting", "Payloads that wait for a slot.", counts.waiting);
        text.gauge("payloads_running", "Payloads that run.", counts.running);
        text.gauge("slots", "Payloads that may run at once (MAX_JOBS).", self.metrics.shared.slots);
        for (name, help, histogram) in [
            ("payload_wait_seconds", "From the upload of a payload to its slot.", &counted::WAITED),
            ("payload_start_seconds", "From the slot of a payload to its process.", &counted::STARTED),
            ("payload_run_seconds", "From the start of a payload to its end.", &counted::RAN),
        ] {
            text.histograms(name, help, &[], [([], histogram)]);
        }
        text.counters("limits_hit", "Payloads that came to a limit.", &["limit"], by_word(&counted::LIMITS));
        text.counters(
            "refusals",
            "Errors that callers were told, by their codes.",
            &["reason"],
            by_word(&counted::REFUSALS),
        );
        let obstacles = super::ready::obstacles(self, 0, self.data_path.free());
        let obstacle = self.runner.obstacle();
        let is_ready = obstacles.is_empty() && obstacle.is_none();
        text.gauge("ready", "Whether a payload would be taken and started now.", u8::from(is_ready));
        let is_lacking = matches!(obstacle, Some(Obstacle::Lack(_)));
        let is_strained = matches!(obstacle, Some(Obstacle::Strain(_)));
        text.gauges(
            "starts_held_back",
            "Whether payloads wait since the host lacks something, or is over a bound.",
            &["why"],
            [(["lack"], u8::from(is_lacking)), (["bound"], u8::from(is_strained))],
        );
        text.gauge("stopping", "Whether the client is being stopped.", u8::from(self.is_draining()));
    }

    fn tell_requests(&self, text: &mut Text) {
        let shared = &self.metrics.shared;
        let requests = shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let codes: Vec<_> = requests
            .iter()
            .map(|((route, method, status), count)| (*route, *method, status.to_string(), *count))
            .collect();
        text.counters(
            "http_requests",
            "Requests that were answered.",
            &["route", "method", "code"],
            codes.iter().map(|(route, method, code, count)| ([*route, *method, code.as_str()], count)),
        );
        let is_used = |route: &str| requests.keys().any(|kind| kind.0 == route);
        let used = shared.took.iter().filter(|(route, _)| is_used(route));
        text.histograms(
            "http_request_seconds",
            "From the head of a request to the last byte of its answer.",
            &["route"],
            used.map(|(route, took)| ([*route], took)),
        );
        text.counter("http_received_bytes", "Bytes that came by connections.", counted::RECEIVED.get());
        text.counter("http_sent_bytes", "Bytes that went out by connections.", counted::SENT.get());
        text.gauge("http_connections", "Connections that are served.", counted::CONNECTIONS.get());
        text.gauge("uploads", "Bodies that are being received.", counted::UPLOADS.get());
        text.gauge("retrievals", "Files and archives that are being sent.", counted::DOWNLOADS.get());
        text.gauge("log_followers", "Callers who follow a log.", counted::FOLLOWERS.get());
    }

    fn tell_disk(&self, text: &mut Text) {
        let free = self.data_path.free();
        text.gauge("disk_free_bytes", "What payloads may still write to DATA_PATH.", free.bytes);
        text.gauge("disk_size_bytes", "Size of the file system of DATA_PATH.", self.data_path.total_bytes());
        if free.inodes < u64::MAX {
            text.gauge("disk_free_inodes", "Files that can still be made in DATA_PATH.", free.inodes);
        }
        let is_hung = self.data_path.stuck_for().is_some();
        text.gauge("disk_hung", "Whether the disk of DATA_PATH does not answer.", u8::from(is_hung));
        let owed = self.records.owed_ids().len();
        text.gauge("records_owed", "Records of payloads that the disk has yet to take.", owed);
    }

    fn tell_process(&self, text: &mut Text) {
        let process = process::look();
        text.counter(
            "process_cpu_seconds",
            "CPU time of the client, payloads aside.",
            counted::seconds(process.cpu_us),
        );
        text.gauge("process_resident_memory_bytes", "Resident set of the client.", process.resident_bytes);
        text.gauge("process_virtual_memory_bytes", "Address space of the client.", process.virtual_bytes);
        text.gauge("process_threads", "Threads of the client.", process.threads);
        text.gauge("process_open_fds", "Descriptors that the client has open.", process.descriptors);
        if let Some(most) = process.most_descriptors {
            text.gauge("process_max_fds", "Descriptors that the client may have open.", most);
        }
        let started_us = u64::try_from(self.metrics.shared.started_at).unwrap_or(0).saturating_mul(1000);
        text.gauge(
            "process_start_time_seconds",
            "When the client was started, since 1970.",
            counted::seconds(started_us),
        );
        let build = [env!("CARGO_PKG_VERSION"), std::env::consts::ARCH];
        text.gauges("build_info", "Which client it is.", &["version", "arch"], [(build, 1)]);
    }

    fn tell_host(&self, text: &mut Text) {
        let ratio = self.load.percent() / 100.0;
        text.gauge(
            "host_cpu_usage_ratio",
            "CPU use of the host, of all its CPUs.",
            format_args!("{ratio:.3}"),
        );
        let host = sensors::look(Path::new("/"));
        if let (Some(all), Some(available)) = (host.memory_bytes, host.available_bytes) {
            text.gauge("host_memory_bytes", "Memory of the host.", all);
            text.gauge(
                "host_memory_available_bytes",
                "Memory of the host that programs can still have.",
                available,
            );
        }
        if !host.pressure.is_empty() {
            let waited = host.pressure.iter();
            text.counters(
                "host_pressure_seconds",
                "How long some or all tasks of the host have waited for a resource.",
                &["resource", "kind"],
                waited.map(|waited| ([waited.resource, waited.kind], counted::seconds(waited.total_us))),
            );
        }
        if !host.temperatures.is_empty() {
            let celsius = |thousandths: i64| {
                let sign = if thousandths < 0 { "-" } else { "" };
                format!("{sign}{}.{:03}", thousandths.abs() / 1000, thousandths.abs() % 1000)
            };
            text.gauges(
                "host_temperature_celsius",
                "Temperatures of the host.",
                &["sensor"],
                host.temperatures.iter().map(|(sensor, value)| ([sensor.as_str()], celsius(*value))),
            );
        }
        if let Some(bits) = host.throttled {
            let conditions = sensors::CONDITIONS.iter();
            let is_set = |bit: u32| u8::from(bits >> bit & 1 == 1);
            text.gauges(
                "host_power_condition",
                "What the firmware of a Raspberry Pi says of its power and heat.",
                &["condition", "since"],
                conditions.flat_map(|(name, bit)| {
                    [([*name, "now"], is_set(*bit)), ([*name, "boot"], is_set(bit + 16))]
                }),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_in_the_table() {
        let paths = [
            "/",
            "/health",
            "/ready",
            "/load",
            "/metrics",
            "/submit",
            "/retrieve/1",
            "/retrieve_partial/1",
            "/kill/1",
            "/payloads/1/logs",
            "/payloads",
            "/payloads/1",
            "/payloads/1/files",
            "/payloads/1/files/a/b",
        ];
        let names = paths.map(|path| Route::of(path).expect("a route").name());
        assert_eq!(names[..], ROUTES[..ROUTES.len() - 1]);
    }
}
