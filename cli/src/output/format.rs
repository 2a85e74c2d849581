//! JSON and YAML of what the API calls by these names: proto3's mapping.

use serde::Serialize;
use serde_json::{Map, Value};

/// One JSON document over several lines.
pub(crate) fn as_json<T: Serialize + ?Sized>(thing: &T) -> String {
    let mut text = serde_json::to_string_pretty(&value(thing)).expect("a JSON value is always written");
    text.push('\n');
    text
}

/// One JSON document in one line.
pub(crate) fn as_jsonl<T: Serialize + ?Sized>(thing: &T) -> String {
    format!("{}\n", value(thing))
}

/// One name a line.
pub(crate) fn as_names(names: impl IntoIterator<Item = String>) -> String {
    names.into_iter().flat_map(|name| [name, "\n".to_owned()]).collect()
}

/// One YAML document: JSON's values in block style. Text is quoted as in JSON wherever it could be read as anything else.
pub(crate) fn as_yaml<T: Serialize + ?Sized>(thing: &T) -> String {
    let mut text = String::new();
    write_yaml(&value(thing), 0, &mut text);
    text
}

fn value<T: Serialize + ?Sized>(thing: &T) -> Value {
    // A field that the server filled with text that is no JSON cannot be shown; saying so is better than ending.
    serde_json::to_value(thing).unwrap_or_else(|error| Value::String(format!("cannot be shown: {error}")))
}

fn write_yaml(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => write_map(map, indent, text),
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                text.extend(std::iter::repeat_n(' ', indent));
                text.push_str("- ");
                // The first key of an item stands behind the dash.
                let mut inner = String::new();
                write_yaml(item, indent + 2, &mut inner);
                text.push_str(inner.trim_start_matches(' '));
            }
        }
        Value::Object(_) | Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {
            text.push_str(&value.to_string());
            text.push('\n');
        }
        Value::String(string) => {
            text.push_str(&scalar(string));
            text.push('\n');
        }
    }
}

fn write_map(map: &Map<String, Value>, indent: usize, text: &mut String) {
    for (key, value) in map {
        text.extend(std::iter::repeat_n(' ', indent));
        text.push_str(&scalar(key));
        text.push(':');
        let is_nested = match value {
            Value::Object(inner) => !inner.is_empty(),
            Value::Array(inner) => !inner.is_empty(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        };
        text.push(if is_nested { '\n' } else { ' ' });
        write_yaml(value, indent + 2, text);
    }
}

/// Text as it is where nothing can take it for something else, else quoted: every JSON string is a YAML one.
fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let is_word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"]
        .contains(&text.to_ascii_lowercase().as_str());
    if is_plain && !is_word { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_quotes_what_could_be_something_else() {
        let thing = json!({
            "id": "run-42", "version": 3, "none": null, "empty": [], "no": "no", "cron": "30 2 * * *",
            "version text": "1.10", "source": "a: b\nc: d\n",
            "tasks": [{"name": "load", "needs": ["check"]}, {"name": "x", "needs": []}, [1, [2]]],
        });
        assert_eq!(
            as_yaml(&thing),
            "id: run-42\nversion: 3\nnone: null\nempty: []\n\"no\": \"no\"\ncron: \"30 2 * * *\"\n\
             \"version text\": \"1.10\"\nsource: \"a: b\\nc: d\\n\"\ntasks:\n  - name: load\n    needs:\n      - check\n  \
             - name: x\n    needs: []\n  - - 1\n    - - 2\n"
        );
    }

    #[test]
    fn a_list_is_a_bare_array() {
        assert_eq!(as_json(&[1, 2]), "[\n  1,\n  2\n]\n");
        assert_eq!(as_jsonl(&json!({"a": [1]})), "{\"a\":[1]}\n");
    }
}
