//! Owns what is shown of a broker: the lines of a screen, or one line.

use std::time::{Duration, SystemTime};

use bytesize::ByteSize;

use super::figures::Figures;
use super::screen::Size;
use crate::commands::client::BrokerUrl;
use crate::commands::pool_list::{PoolRow, columns};
use crate::commands::text::{age, millis, printable, table};

/// A broker at one time.
pub(super) struct Shown<'a> {
    pub(super) url: &'a BrokerUrl,
    pub(super) figures: Figures,
    pub(super) pools: &'a [PoolRow],
    /// Why the last look failed.
    pub(super) failure: Option<&'a str>,
    pub(super) now: SystemTime,
}

/// The lines of a screen of this size.
pub(super) fn frame(shown: &Shown<'_>, size: Size) -> Vec<String> {
    let Shown { url, figures, failure, now, .. } = shown;
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let state = match failure {
        Some(failure) => printable(failure),
        None if figures.is_draining => "draining".to_owned(),
        None => format!("up {}", age(since_1970 - figures.started)),
    };
    let mut lines = vec![
        format!("pilotlight {}  {url}  {state}", printable(&figures.version)),
        format!(
            "waiters     {}  ·  {} pools  ·  {}  ·  CPU {:.0}%",
            named(&figures.waiters, |count| count.to_string()),
            figures.pools,
            memory(figures.resident_bytes),
            figures.cpu_percent
        ),
        format!(
            "dispatches  {:.1}/s  ·  hits {:.1}/s  ·  misses {:.1}/s{}  ·  refused or aborted {:.1}/s",
            figures.dispatches,
            figures.hits,
            figures.missed,
            in_brackets(&named(&figures.misses, |rate| format!("{rate:.1}"))),
            figures.others
        ),
        format!("delivery    {}", delivery(figures)),
    ];
    if let Some((open, ends)) = &figures.replies {
        lines.push(format!(
            "replies     {open} open{}",
            in_brackets(&named(ends, |rate| format!("{rate:.1}/s")))
        ));
    }
    lines.push(String::new());
    let room = size.rows.saturating_sub(lines.len() + 1);
    let mut pools: Vec<&PoolRow> = shown.pools.iter().collect();
    pools.sort_by(|one, other| by_activity(one).cmp(&by_activity(other)));
    // The last row says how many there are besides.
    let fitting = if pools.len() > room { room.saturating_sub(1) } else { pools.len() };
    let rows: Vec<_> = pools.iter().take(fitting).map(|pool| pool.shown_cells()).collect();
    lines.extend(table(columns(false), &rows));
    if pools.len() > fitting {
        lines.push(format!("and {} more", pools.len() - fitting));
    }
    lines
}

/// Pools at which a controller came lately are first, those with more waiters before others. The time is coarse, so that rows
/// keep their places.
fn by_activity(pool: &PoolRow) -> (u32, std::cmp::Reverse<u64>, &str, &str, String) {
    let coarse = Duration::try_from_secs_f64(pool.newest_seconds.min(1e9)).unwrap_or_default().as_secs();
    let coarse = u64::BITS - (coarse / 2).leading_zeros();
    let machine = format!("{} {}", pool.cpu, pool.memory);
    (coarse, std::cmp::Reverse(pool.waiters), &pool.deployment, &pool.version, machine)
}

/// The same in one line, for logs and other programs.
pub(super) fn line(shown: &Shown<'_>) -> String {
    let Shown { figures, pools, now, .. } = shown;
    let oldest = pools.iter().map(|pool| pool.oldest_seconds).fold(0.0, f64::max);
    let waiters = figures.waiters.iter().fold(0.0, |sum, (_, count)| sum + count);
    let mut fields = vec![
        humantime::format_rfc3339_seconds(*now).to_string(),
        format!("waiters={waiters}"),
        format!("pools={}", figures.pools),
        format!("oldest={oldest:.1}s"),
        format!("dispatches={:.1}/s", figures.dispatches),
        format!("hits={:.1}/s", figures.hits),
        format!("misses={:.1}/s", figures.missed),
    ];
    fields.extend(figures.misses.iter().map(|(reason, rate)| format!("miss.{reason}={rate:.1}/s")));
    fields.extend(figures.waiters.iter().map(|(transport, count)| format!("waiters.{transport}={count}")));
    if let Some([p50, p99]) = figures.delivery {
        fields.extend([format!("p50={:.2}ms", p50 * 1e3), format!("p99={:.2}ms", p99 * 1e3)]);
    }
    if let Some((open, _)) = &figures.replies {
        fields.push(format!("replies_open={open}"));
    }
    fields.push(format!("rss={}", figures.resident_bytes));
    if figures.is_draining {
        fields.push("draining".to_owned());
    }
    fields.join(" ")
}

fn named(values: &[(String, f64)], value: impl Fn(f64) -> String) -> String {
    let named = values.iter().map(|(name, count)| format!("{} {}", printable(name), value(*count)));
    named.collect::<Vec<_>>().join(", ")
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

fn delivery(figures: &Figures) -> String {
    let Some(times) = figures.delivery else { return "-".to_owned() };
    let [median, most] =
        times.map(|seconds| millis(Duration::try_from_secs_f64(seconds).unwrap_or_default()));
    format!("p50 {median}  ·  p99 {most}")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes of memory are few enough, and not negative"
)]
fn memory(bytes: f64) -> String {
    format!("{} of memory", ByteSize::b(bytes.max(0.0) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(deployment: &str, waiters: u64, newest_seconds: f64) -> PoolRow {
        PoolRow {
            deployment: deployment.to_owned(),
            version: "v".to_owned(),
            cpu: 0.5,
            memory: 1.0,
            waiters,
            oldest_seconds: newest_seconds,
            newest_seconds,
            broker: None,
        }
    }

    fn framed(pools: &[PoolRow], rows: usize) -> Vec<String> {
        let url = BrokerUrl::Unix("/run/ops.sock".into());
        let shown = Shown {
            url: &url,
            figures: Figures::default(),
            pools,
            failure: None,
            now: SystemTime::UNIX_EPOCH,
        };
        frame(&shown, Size { rows, columns: 80 })
    }

    #[test]
    fn the_busiest_pools_are_first_and_the_frame_fits_the_terminal() {
        let pools: Vec<_> =
            [("idle", 9, 900.0), ("few", 1, 0.9), ("many", 5, 0.1), ("named\u{1b}[m", 1, 70.0)]
                .map(|(name, waiters, newest)| pool(name, waiters, newest))
                .to_vec();
        let lines = framed(&pools, 24);
        let names: Vec<_> = lines[6..].iter().map(|line| line.split_whitespace().next().unwrap()).collect();
        assert_eq!(names, ["many", "few", "named\\u{1b}[m", "idle"], "{lines:#?}");
        for rows in 7..12 {
            let lines = framed(&pools, rows);
            assert!(lines.len() <= rows, "{rows}: {lines:#?}");
            let hidden = 10_usize.saturating_sub(rows);
            let more = format!("and {} more", hidden + usize::from(hidden > 0));
            assert_eq!(lines.last() == Some(&more), hidden > 0, "{rows}: {lines:#?}");
        }
    }

    #[test]
    fn a_line_has_everything_and_only_what_occurred() {
        let url = BrokerUrl::Unix("/run/ops.sock".into());
        let figures = Figures {
            missed: 0.5,
            misses: vec![("no_pool".to_owned(), 0.5)],
            waiters: vec![("poll".to_owned(), 3.0)],
            delivery: Some([0.0004, 0.0012]),
            ..Figures::default()
        };
        let pools = [pool("a", 3, 12.0)];
        let now = SystemTime::UNIX_EPOCH;
        let line = line(&Shown { url: &url, figures, pools: &pools, failure: None, now });
        assert_eq!(
            line,
            "1970-01-01T00:00:00Z waiters=3 pools=0 oldest=12.0s dispatches=0.0/s hits=0.0/s misses=0.5/s \
             miss.no_pool=0.5/s waiters.poll=3 p50=0.40ms p99=1.20ms rss=0"
        );
    }
}
