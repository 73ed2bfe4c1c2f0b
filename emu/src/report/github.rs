//! Annotations for GitHub Actions: workflow commands that its log parser turns into marks on a file.
//!
//! Source: GitHub's documentation of workflow commands, `::error file=…,title=…::message`. A property escapes `%`, CR, LF, `:` and `,`; a
//! message `%`, CR and LF.

/// Returns one error annotation, on a file if it is about one, as a line.
pub fn error(file: Option<&str>, title: &str, message: &str) -> String {
    let file = file.map(|file| format!("file={},", property(file))).unwrap_or_default();
    format!("::error {file}title={}::{}\n", property(title), data(message))
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_break_out_of_its_line() {
        assert_eq!(error(Some("a,b.toml"), "x: y", "100%\r\n::error::z"), "::error file=a%2Cb.toml,title=x%3A y::100%25%0D%0A::error::z\n");
    }
}
