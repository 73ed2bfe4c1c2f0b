//! The language as a JSON Schema (draft 2020-12), which TOML language servers such as taplo use to complete, check and explain a file while it
//! is being written. Written from the same table that the reader reads by.

use serde_json::{Map, Value, json};

use super::units::{self, RATES, SIZES, TIMES};
use super::vocabulary::{ACTIONS, COMMAND, Key, Kind, OPERATIONS, RESIZE_MEM, ROOT, Range, START, Table, Word};
use super::words::{self, COMMANDS};

/// Returns the schema as JSON text.
pub fn schema() -> String {
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("lostpage scenario"));
    schema.extend(table(&ROOT));
    let mut text = serde_json::to_string_pretty(&Value::Object(schema)).expect("a tree of plain values");
    text.push('\n');
    text
}

/// A table: known keys only.
fn table(table: &Table) -> Map<String, Value> {
    let properties: Map<String, Value> = table.keys.iter().map(|key| (key.name.to_owned(), key_schema(key))).collect();
    let required: Vec<&str> = table.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("properties".to_owned(), Value::Object(properties));
    schema.insert("additionalProperties".to_owned(), json!(false));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    if table.keys.iter().any(|key| key.name == ACTIONS[0]) && table.has(ACTIONS[2]) {
        let actions: Vec<Value> = ACTIONS.iter().map(|action| json!({ "required": [action] })).collect();
        schema.insert("oneOf".to_owned(), json!(actions));
    }
    schema
}

fn key_schema(key: &Key) -> Value {
    let mut schema = kind(&key.kind);
    let object = schema.as_object_mut().expect("every kind is an object");
    let mut about = key.about.to_owned();
    if let Some(why) = why(&key.kind) {
        about.push_str(&format!(" Limits: {why}."));
    }
    object.insert("description".to_owned(), json!(about));
    if !key.default.is_empty() {
        object.insert("default".to_owned(), default(key.default));
    }
    schema
}

/// A default of the vocabulary as JSON.
fn default(text: &str) -> Value {
    let document: Map<String, Value> = toml::from_str(&format!("default = {text}")).expect("defaults are TOML");
    document["default"].clone()
}

/// Returns the range of a kind in words, with its reason.
fn why(kind: &Kind) -> Option<String> {
    let with_units =
        |range: &Range, units| format!("{} to {}; {}", units::format(range.min, units), units::format(range.max, units), range.why);
    match kind {
        Kind::Several(one) => why(one),
        Kind::Integer(range) | Kind::PowerOfTwo(range) | Kind::Integers(range) => {
            Some(format!("{} to {}; {}", range.min, range.max, range.why))
        }
        Kind::Size(range, _) | Kind::SizePowerOfTwo(range) => Some(with_units(range, SIZES)),
        Kind::Time(range) => Some(with_units(range, TIMES)),
        Kind::Rate(range) | Kind::RateOrUnlimited(range) => Some(with_units(range, RATES)),
        Kind::Text
        | Kind::Name
        | Kind::Flag
        | Kind::True
        | Kind::Word(..)
        | Kind::FlagOrWord(..)
        | Kind::Words(..)
        | Kind::Vcpu
        | Kind::Actor
        | Kind::Page
        | Kind::Allocation
        | Kind::Pattern
        | Kind::Patterns
        | Kind::Chain
        | Kind::Table(_)
        | Kind::Tables(_)
        | Kind::Operation
        | Kind::Operations
        | Kind::Command
        | Kind::Start
        | Kind::Pages
        | Kind::PerPage(_)
        | Kind::PerEvent(_) => None,
    }
}

const NAME: &str = "^[A-Za-z_][A-Za-z0-9_-]*$";

fn kind(kind: &Kind) -> Value {
    match kind {
        Kind::Text => json!({ "type": "string", "pattern": "\\S" }),
        Kind::Name | Kind::Page | Kind::Allocation => json!({ "type": "string", "pattern": NAME }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::True => json!({ "const": true }),
        Kind::Integer(range) => json!({ "type": "integer", "minimum": range.min, "maximum": range.max }),
        Kind::PowerOfTwo(range) => {
            let powers: Vec<u64> = (0..64).map(|shift| 1 << shift).filter(|power| (range.min..=range.max).contains(power)).collect();
            json!({ "enum": powers })
        }
        Kind::Integers(range) => json!({ "type": "array", "items": { "type": "integer", "minimum": range.min, "maximum": range.max } }),
        Kind::Several(one) => json!({ "type": "array", "items": self::kind(one), "uniqueItems": true }),
        Kind::Size(..) | Kind::SizePowerOfTwo(_) => quantity(SIZES),
        Kind::Time(_) => quantity(TIMES),
        Kind::Rate(_) => quantity(RATES),
        Kind::RateOrUnlimited(_) => json!({ "anyOf": [{ "const": "unlimited" }, quantity(RATES)] }),
        Kind::Word(_, all) => word_set(&all()),
        Kind::FlagOrWord(_, all) => json!({ "anyOf": [{ "type": "boolean" }, word_set(&all())] }),
        Kind::Words(_, all) => json!({ "type": "array", "items": word_set(&all()), "uniqueItems": true }),
        Kind::Vcpu => json!({ "type": "string", "pattern": "^vcpu[0-9]$" }),
        Kind::Actor => json!({ "type": "string", "pattern": "^(vcpu[0-9]|dma|vhost|vfio|display|main-loop)$" }),
        Kind::Pattern => pattern(),
        Kind::Patterns => json!({ "anyOf": [pattern(), { "type": "array", "items": pattern() }] }),
        Kind::Chain => json!({ "type": "array", "items": pattern(), "minItems": 2 }),
        Kind::Table(inner) => Value::Object(table(inner)),
        Kind::Tables(inner) => json!({ "type": "array", "items": table(inner) }),
        Kind::Operation => operation(),
        Kind::Operations => json!({ "type": "array", "items": operation(), "minItems": 1 }),
        Kind::Command => json!({ "anyOf": [word_set(COMMANDS), table(&COMMAND), table(&RESIZE_MEM)] }),
        Kind::Start => json!({ "anyOf": [{ "const": "never" }, quantity(TIMES), pattern(), table(&START)] }),
        Kind::Pages => {
            let block = "(hint [0-9]+|hint 0x[0-9a-fA-F]+|[A-Za-z_][A-Za-z0-9_-]*)";
            let number = "(0x[0-9a-fA-F]+|[0-9]+)";
            let spec = format!(
                "^\\s*(pfn\\s+{number}|address\\s+{number}|((first|second|third|last)\\s+page|page\\s+{number})\\s+of\\s+{block})\\s*$"
            );
            json!({ "type": "object", "propertyNames": { "pattern": NAME }, "additionalProperties": { "type": "string", "pattern": spec } })
        }
        Kind::PerPage(inner) => json!({ "type": "object", "propertyNames": { "pattern": NAME }, "additionalProperties": table(inner) }),
        Kind::PerEvent(inner) => {
            json!({ "type": "object", "propertyNames": word_set(&words::events()), "additionalProperties": table(inner) })
        }
    }
}

fn quantity(units: &[(&str, u64)]) -> Value {
    let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
    json!({ "type": "string", "pattern": format!("^[0-9]+ *({})$", names.join("|")) })
}

/// A closed set; `x-taplo` is how that server shows what each word means.
fn word_set(words: &[Word]) -> Value {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let about: Vec<&str> = words.iter().map(|(_, about)| *about).collect();
    json!({ "enum": names, "x-taplo": { "docs": { "enumValues": about } } })
}

/// An event pattern: an event, with a page and a number if wanted, or an injection.
fn pattern() -> Value {
    let events: Vec<String> = words::events().iter().map(|(name, _)| name.replace('.', "\\.")).collect();
    let event = format!("^({})(\\([A-Za-z_][A-Za-z0-9_-]*\\))?(#(0x[0-9a-fA-F]+|[0-9]+))?$", events.join("|"));
    json!({ "anyOf": [word_set(&words::events()), { "type": "string", "pattern": event }, { "type": "string", "pattern": "^inject\\[[0-9]+\\]$" }, { "type": "string", "pattern": NAME }] })
}

fn operation() -> Value {
    let all: Vec<Value> = OPERATIONS.iter().map(|operation| Value::Object(table(operation))).collect();
    json!({ "oneOf": all })
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary;
    use super::*;

    /// Counts, for each set of properties of the schema, how often it stands there.
    fn property_sets(value: &Value, found: &mut Vec<Vec<String>>) {
        match value {
            Value::Object(object) => {
                if let Some(Value::Object(properties)) = object.get("properties") {
                    assert_eq!(object["additionalProperties"], json!(false), "unknown keys are refused");
                    found.push(properties.keys().cloned().collect());
                }
                object.values().for_each(|value| property_sets(value, found));
            }
            Value::Array(array) => array.iter().for_each(|value| property_sets(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn schema_and_vocabulary_have_the_same_tables() {
        let schema: Value = serde_json::from_str(&schema()).expect("JSON");
        let mut in_schema = Vec::new();
        property_sets(&schema, &mut in_schema);
        let mut in_vocabulary: Vec<Vec<String>> =
            vocabulary::tables().into_iter().map(|table| table.keys.iter().map(|key| key.name.to_owned()).collect::<Vec<_>>()).collect();
        in_vocabulary.iter_mut().for_each(|keys| keys.sort());
        in_schema.iter_mut().for_each(|keys| keys.sort());
        for lists in [&mut in_schema, &mut in_vocabulary] {
            lists.sort();
            lists.dedup();
        }
        assert_eq!(in_schema, in_vocabulary);
    }

    #[test]
    fn registries_are_in_the_schema() {
        let schema = schema();
        for word in ["hint-stop-skipped", "hint.apply", "over-send", "get-clears", "hint-wait-on-ack"] {
            assert!(schema.contains(&format!("\"{word}\"")), "{word} is missing");
        }
    }
}
