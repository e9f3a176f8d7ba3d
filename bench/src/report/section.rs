//! Owns a section of the report that a command of its own measures: it is replaced while the rest stays.

/// What follows such sections.
pub(super) const NEXT_HEADING: &str = "\n## Inside a dispatch\n";

/// The section with this heading, which begins and ends with a line break.
pub(super) fn find<'a>(report: &'a str, heading: &str) -> Option<&'a str> {
    let begin = report.find(heading)?;
    let end = report[begin + heading.len()..].find("\n## ")?;
    Some(&report[begin..begin + heading.len() + end])
}

/// The report with this section instead of the one with the same heading, or before the heading that follows such sections.
pub(super) fn replace(report: &str, heading: &str, section: &str) -> Option<String> {
    let begin = report.find(heading).or_else(|| report.find(NEXT_HEADING))?;
    let end = begin + find(report, heading).map_or(0, str::len);
    Some([&report[..begin], section, &report[end..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "# Report\n\n## One\n\n1\n\n## Two\n\n2\n\n## Inside a dispatch\n\n3\n";

    #[test]
    fn a_section_is_replaced_and_the_rest_stays() {
        assert_eq!(find(REPORT, "\n## One\n"), Some("\n## One\n\n1\n"));
        let replaced = replace(REPORT, "\n## One\n", "\n## One\n\nnew\n").unwrap();
        assert_eq!(replaced, REPORT.replace("\n1\n", "\nnew\n"));
        assert_eq!(replace(&replaced, "\n## One\n", "\n## One\n\n1\n").unwrap(), REPORT);
    }

    #[test]
    fn a_new_section_comes_before_the_heading_that_follows() {
        let added = replace(REPORT, "\n## New\n", "\n## New\n\nnew\n").unwrap();
        assert_eq!(added, REPORT.replace("\n## Inside", "\n## New\n\nnew\n\n## Inside"));
        assert!(replace("# Report\n", "\n## New\n", "\n## New\n").is_none());
    }
}
