//! Owns pages: listings are made in parts, so that no call holds the lock for long.

use super::chunks::Chunks;

/// Part of a listing, and where the next part begins.
#[derive(Debug)]
pub struct Page<V> {
    /// The rows of this part.
    pub rows: Vec<V>,
    /// The slot where the next page begins; none after the last page.
    pub next: Option<u32>,
}

/// Selects rows from the next `scan` slots, beginning at `from`, until there are `max_rows`.
pub(super) fn page<T, V>(
    slab: &Chunks<T>,
    from: u32,
    scan: u32,
    max_rows: usize,
    mut select: impl FnMut(u32, &T) -> Option<V>,
) -> Page<V> {
    let end = from.saturating_add(scan).min(slab.end());
    let mut rows = Vec::new();
    let mut slot = from;
    while slot < end && rows.len() < max_rows {
        rows.extend(slab.get(slot).and_then(|value| select(slot, value)));
        slot += 1;
    }
    Page { rows, next: (slot < slab.end()).then_some(slot) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_skips_what_is_not_selected_and_the_next_one_begins_behind_its_last_row() {
        let mut slab = Chunks::new();
        let end = (0..1024).map(|value| slab.insert(value)).max().unwrap() + 1;
        let odd = |from, scan, max_rows| {
            let Page { rows, next } =
                page(&slab, from, scan, max_rows, |_, value| (value % 2 == 1).then_some(*value));
            (rows, next)
        };
        assert_eq!(odd(0, 8, 1), (vec![1], Some(2)));
        assert_eq!(odd(2, 8, 2), (vec![3, 5], Some(6)));
        assert_eq!(odd(6, 1, 2), (vec![], Some(7)));
        assert_eq!(odd(end - 3, 8, 2), (vec![end - 3, end - 1], None));
        assert_eq!(odd(end + 10, 8, 2), (vec![], None));
    }
}
