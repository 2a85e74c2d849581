//! JSON values on the wire: `matins.v1.Json`, text that in JSON is the value itself.

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Why a [`Json`] holds no JSON.
pub type NotJson = serde_json::Error;

/// A JSON value, kept as text so that integers of any size arrive as they left.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Json {
    /// The value as JSON text. Empty means `null`.
    #[prost(string, tag = "1")]
    pub text: String,
}

impl Json {
    /// The value that the text holds. The text may come from the wire and be anything.
    pub fn value(&self) -> Result<Value, NotJson> {
        if self.text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&self.text) }
    }
}

impl From<&Value> for Json {
    fn from(value: &Value) -> Self {
        Self { text: value.to_string() }
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self::from(&value)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer).map_err(D::Error::custom)?;
        Ok(Self::from(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_json_it_is_the_value_itself() {
        // As a double this integer would end in ..992.
        let text = r#"{"id":9007199254740993,"rows":[500,0.5,null],"ok":true}"#;
        let json: Json = serde_json::from_str(text).unwrap();
        assert_eq!(json.text, text);
        assert_eq!(serde_json::to_string(&json).unwrap(), text);
    }

    #[test]
    fn text_that_is_no_json_is_an_error_and_no_text_is_null() {
        assert!(serde_json::to_string(&Json { text: "{".into() }).is_err());
        assert_eq!(serde_json::to_string(&Json::default()).unwrap(), "null");
    }
}
