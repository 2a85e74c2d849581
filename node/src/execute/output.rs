//! What a task gives back: the output file of LANGUAGE 1.13.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde_json::{Map, Value};

/// Reads an output file of at most `bytes_max`. The error says, for people, why it makes the attempt fail.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Map<String, Value>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(format!("cannot read the output file: {error}")),
    };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    if length > bytes_max {
        return Err(too_large(length, bytes_max));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // The file may still grow under a process that escaped, or be no regular file: never read more than the limit.
    let read = file.take(bytes_max + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("cannot read the output file: {error}"))?;
    if bytes.len() as u64 > bytes_max {
        return Err(too_large(bytes.len() as u64, bytes_max));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        format!("the output file is not UTF-8: byte {} is not text", error.utf8_error().valid_up_to())
    })?;
    parse(&text)
}

fn too_large(length: u64, bytes_max: u64) -> String {
    format!(
        "the output file has {length} bytes, output limit is {bytes_max}: \
         write large data to storage and give back where it is"
    )
}

fn parse(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text)
            .map_err(|error| format!("the output file is not a JSON object: {error}"));
    }
    let mut outputs = Map::new();
    for (line, number) in text.lines().zip(1..) {
        if line.trim().is_empty() {
            continue;
        }
        let pair = line.split_once('=').filter(|(key, _)| is_name(key));
        let (key, value) = pair.ok_or_else(|| {
            let line: String = line.chars().take(40).collect();
            format!("line {number} of the output file, `{line}`, is not `key=value`")
        })?;
        outputs.insert(key.to_owned(), Value::String(value.to_owned()));
    }
    Ok(outputs)
}

/// LANGUAGE 1.7: what a declared output may be called.
fn is_name(key: &str) -> bool {
    let begins_well = key.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    begins_well && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_or_lines() {
        let parsed = |text| parse(text).map(Value::Object);
        assert_eq!(parsed(" \n{\"a\": [1, 2.50]}"), Ok(json!({"a": [1, 2.5]})));
        assert_eq!(parsed("a=1\r\n\nb=x=y\na=2\n"), Ok(json!({"a": "2", "b": "x=y"})));
        assert_eq!(parsed(""), Ok(json!({})));
        for (wrong, why) in [
            ("[1]", "line 1 of the output file, `[1]`, is not `key=value`"),
            ("a=1\nb c=2", "line 2 of the output file, `b c=2`, is not `key=value`"),
            ("{\"a\": 1} x", "the output file is not a JSON object: trailing characters at line 1 column 10"),
        ] {
            assert_eq!(parsed(wrong), Err(why.to_owned()));
        }
    }

    #[test]
    fn the_limit_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        assert_eq!(read(&path, 10), Ok(Map::new()));
        std::fs::write(&path, "a=12345678").unwrap();
        assert!(read(&path, 10).is_ok());
        let error = read(&path, 9).unwrap_err();
        assert!(error.contains("has 10 bytes, output limit is 9"), "{error}");
        std::fs::write(&path, b"a=\xff").unwrap();
        assert!(read(&path, 10).unwrap_err().contains("byte 2"));
    }

    proptest! {
        #[test]
        fn an_output_of_any_text_is_read_or_refused(text in "[{}\\[\\]\"=:,a-z0-9\n ]{0,80}", bytes: Vec<u8>) {
            drop(parse(&text));
            drop(parse(&String::from_utf8_lossy(&bytes)));
        }
    }
}
