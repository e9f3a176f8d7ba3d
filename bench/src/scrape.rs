//! Owns one scrape of the broker's metrics, and sums over it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Every sample, by its name and labels as they are exposed.
#[derive(Debug, Clone, Default)]
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    /// Scrapes a broker's ops listener; an error after five seconds without a response.
    pub async fn fetch(ops: SocketAddr) -> anyhow::Result<Self> {
        let response = tokio::time::timeout(Duration::from_secs(5), async {
            let mut stream = tokio::net::TcpStream::connect(ops).await?;
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
                .await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            std::io::Result::Ok(text)
        });
        let text = response.await.context("no metrics within 5 s")??;
        ensure!(text.starts_with("HTTP/1.1 200"), "no metrics: {}", text.lines().next().unwrap_or_default());
        Ok(Self::parse(&text))
    }

    /// Parses the text format.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// The sum of all samples whose name starts with `prefix`.
    pub fn sum(&self, prefix: &str) -> f64 {
        self.0.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
    }

    /// The same sum as an integer.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts far below 2^52")]
    pub fn count(&self, prefix: &str) -> u64 {
        self.sum(prefix).round() as u64
    }

    /// What follows `prefix` up to the next quote, in every sample's name: the values of a label.
    pub fn labels(&self, prefix: &str) -> Vec<String> {
        let rests = self.0.keys().filter_map(|name| name.strip_prefix(prefix));
        rests.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
    }

    /// The upper bound of the bucket that contains a quantile of a histogram, over all its labels.
    pub fn quantile(&self, histogram: &str, quantile: f64) -> f64 {
        let prefix = format!("{histogram}_bucket{{");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (name, count) in self.0.iter().filter(|(name, _)| name.starts_with(&prefix)) {
            let Some(end) = name.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()) else {
                continue;
            };
            let end = end.parse().unwrap_or(f64::INFINITY);
            match buckets.iter_mut().find(|(known, _)| known.total_cmp(&end).is_eq()) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((end, *count)),
            }
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let all = buckets.last().map_or(0.0, |(_, count)| *count);
        buckets.into_iter().find(|(_, count)| *count >= all * quantile).map_or(0.0, |(end, _)| end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_quantiles_go_over_labels() {
        let scrape = Scrape::parse(
            "# HELP x y\nx{a=\"1\"} 2\nx{a=\"2\"} 3\nt_bucket{o=\"hit\",le=\"0.1\"} 9\nt_bucket{o=\"hit\",le=\"1\"} 10\n\
             t_bucket{o=\"miss\",le=\"0.1\"} 90\nt_bucket{o=\"miss\",le=\"1\"} 90\n",
        );
        assert_eq!((scrape.count("x"), scrape.count("x{a=\"1\"}")), (5, 2));
        assert_eq!(scrape.labels("x{a=\""), ["1", "2"]);
        assert!((scrape.quantile("t", 0.5) - 0.1).abs() < 1e-9);
        assert!((scrape.quantile("t", 0.999) - 1.0).abs() < 1e-9);
    }
}
