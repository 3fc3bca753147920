//! Reading tables of TOML by hand, value by value: what is wrong is reported, and the reading goes on.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::report::{Errors, Span, closest, code, list, suggest};

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// `key = "reason"`; no reason if it was no string, which is then already reported.
#[derive(Debug)]
pub(crate) struct Reasoned<T> {
    pub(crate) key: At<T>,
    pub(crate) reason: Option<At<String>>,
}

/// A key and a value it could have, for the help.
pub(crate) struct Key(pub(crate) &'static str, pub(crate) &'static str);

pub(crate) fn string(value: &Value<'_>, errors: &mut Errors<'_>) -> Option<At<String>> {
    match value.at.get_ref() {
        DeValue::String(text) => Some(At { value: text.to_string(), span: value.at.span().into() }),
        _ => value.wrong_type("a string", errors),
    }
}

/// A value and the key it belongs to.
pub(crate) struct Value<'a> {
    pub(crate) name: &'a str,
    pub(crate) example: &'static str,
    pub(crate) at: &'a Spanned<DeValue<'a>>,
}

impl Value<'_> {
    pub(crate) fn wrong_type<T>(&self, expected: &str, errors: &mut Errors<'_>) -> Option<T> {
        let kind = self.at.get_ref().type_str();
        let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
        errors.at(
            self.at.span().into(),
            format!("{} is {article} {kind}, not {expected}", code(self.name)),
            format!("write for example `{} = {}`", crate::rules::printable(self.name), self.example),
        );
        None
    }

    pub(crate) fn word<T: Copy>(
        &self,
        what: &str,
        all: &[T],
        name: impl Fn(T) -> &'static str,
        errors: &mut Errors<'_>,
    ) -> Option<At<T>> {
        let text = string(self, errors)?;
        let found = all.iter().copied().find(|value| name(*value) == text.value);
        if found.is_none() {
            let words: Vec<&str> = all.iter().map(|value| name(*value)).collect();
            let help = suggest(&text.value, what, words);
            errors.at(text.span, format!("Unknown {what} {}", code(&text.value)), help);
        }
        Some(At { value: found?, span: text.span })
    }

    pub(crate) fn array<T>(
        &self,
        errors: &mut Errors<'_>,
        read: impl Fn(&Value<'_>, &mut Errors<'_>) -> Option<At<T>>,
    ) -> Option<Vec<At<T>>> {
        let DeValue::Array(items) = self.at.get_ref() else { return self.wrong_type("an array", errors) };
        let Self { name, example, .. } = *self;
        Some(items.iter().filter_map(|at| read(&Value { name, example, at }, errors)).collect())
    }
}

/// A table of the file.
pub(crate) struct Section<'a> {
    pub(crate) title: String,
    /// Place of its name, or of the whole inline table.
    pub(crate) span: Span,
    pub(crate) table: &'a DeTable<'a>,
}

pub(crate) type Entry<'a> = (&'a Spanned<toml::de::DeString<'a>>, &'a Spanned<DeValue<'a>>);

impl<'a> Section<'a> {
    pub(crate) fn in_order(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let mut entries: Vec<_> = self.table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries.into_iter()
    }

    pub(crate) fn unknown(&self, keys: &'static [Key]) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        self.in_order().filter(|(key, _)| !keys.iter().any(|known| known.0 == key.get_ref()))
    }

    pub(crate) fn report_unknown(&self, keys: &'static [Key], errors: &mut Errors<'_>) {
        for (key, _) in self.unknown(keys) {
            let help = closest(key.get_ref(), keys.iter().map(|key| key.0)).map_or_else(
                || format!("the keys of `[{}]` are {}", self.title, list(keys.iter().map(|key| key.0))),
                |word| format!("did you mean `{word}`?"),
            );
            let message = format!("Unknown key {} in `[{}]`", code(key.get_ref()), self.title);
            errors.at(key.span().into(), message, help);
        }
    }

    pub(crate) fn value(&self, key: &'static str, keys: &'static [Key]) -> Option<Value<'a>> {
        let example = keys.iter().find(|known| known.0 == key).map_or("...", |known| known.1);
        Some(Value { name: key, example, at: self.table.get(key)? })
    }

    /// The value of an optional key.
    pub(crate) fn take<T>(
        &self,
        key: &'static str,
        keys: &'static [Key],
        errors: &mut Errors<'_>,
        read: impl FnOnce(&Value<'_>, &mut Errors<'_>) -> Option<T>,
    ) -> Option<T> {
        read(&self.value(key, keys)?, errors)
    }

    /// The value of a key that must be there.
    pub(crate) fn need<T>(
        &self,
        key: &'static str,
        keys: &'static [Key],
        errors: &mut Errors<'_>,
        read: impl FnOnce(&Value<'_>, &mut Errors<'_>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key, keys);
        if value.is_none() {
            let example = keys.iter().find(|known| known.0 == key).map_or("...", |known| known.1);
            errors.at(
                self.span,
                format!("`[{}]` has no `{key}`", self.title),
                format!("add it, for example `{key} = {example}`"),
            );
        }
        read(&value?, errors)
    }

    pub(crate) fn number(
        &self,
        key: &'static str,
        keys: &'static [Key],
        range: RangeInclusive<u32>,
        needed: bool,
        errors: &mut Errors<'_>,
    ) -> Option<At<u32>> {
        let read = |value: &Value<'_>, errors: &mut Errors<'_>| {
            let DeValue::Integer(number) = value.at.get_ref() else {
                return value.wrong_type("an integer", errors);
            };
            let span = value.at.span().into();
            let found = i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .and_then(|number| u32::try_from(number).ok())
                .filter(|number| range.contains(number));
            if found.is_none() {
                errors.at(
                    span,
                    format!("`{key}` of `[{}]` is {}", self.title, number.as_str()),
                    format!("write a number from {} to {}", range.start(), range.end()),
                );
            }
            Some(At { value: found?, span })
        };
        if needed { self.need(key, keys, errors, read) } else { self.take(key, keys, errors, read) }
    }

    /// The sub-table `key`, if it is there and a table.
    pub(crate) fn table(&self, key: &'static str, errors: &mut Errors<'_>) -> Option<Section<'a>> {
        let (name, value) = self.table.get_key_value(key)?;
        let title = if self.title.is_empty() { key.to_owned() } else { format!("{}.{key}", self.title) };
        Section::new(&title, name.span().into(), value, errors)
    }

    pub(crate) fn new(
        title: &str,
        span: Span,
        value: &'a Spanned<DeValue<'a>>,
        errors: &mut Errors<'_>,
    ) -> Option<Self> {
        let title = crate::rules::printable(title);
        let DeValue::Table(table) = value.get_ref() else {
            let kind = value.get_ref().type_str();
            errors.at(
                span,
                format!("`{title}` is of type {kind}, not a section"),
                format!("write `[{title}]`, and what belongs to it below"),
            );
            return None;
        };
        Some(Self { title, span, table })
    }

    pub(crate) fn section(
        &self,
        key: &'static str,
        keys: &'static [Key],
        errors: &mut Errors<'_>,
    ) -> Option<Section<'a>> {
        let section = self.table(key, errors)?;
        section.report_unknown(keys, errors);
        Some(section)
    }

    /// The sections `[key.NAME]`.
    pub(crate) fn named(
        &self,
        key: &'static str,
        keys: &'static [Key],
        errors: &mut Errors<'_>,
    ) -> Vec<(At<String>, Section<'a>)> {
        let Some(all) = self.table(key, errors) else { return Vec::new() };
        let mut named = Vec::new();
        for (name, value) in all.in_order() {
            let span = name.span().into();
            let Some(section) = Section::new(&format!("{key}.{}", name.get_ref()), span, value, errors)
            else {
                continue;
            };
            section.report_unknown(keys, errors);
            named.push((At { value: name.get_ref().to_string(), span }, section));
        }
        named
    }

    /// A sub-table of `key = "reason"`.
    pub(crate) fn reasons<T>(
        &self,
        key: &'static str,
        read: impl Fn(&Spanned<toml::de::DeString<'_>>, &mut Errors<'_>) -> Option<T>,
        errors: &mut Errors<'_>,
    ) -> Vec<Reasoned<T>> {
        let Some(section) = self.table(key, errors) else { return Vec::new() };
        let mut found = Vec::new();
        for (key, at) in section.in_order() {
            let value = Value { name: key.get_ref(), example: "\"why it needs it\"", at };
            let reason = string(&value, errors);
            if let Some(word) = read(key, errors) {
                found.push(Reasoned { key: At { value: word, span: key.span().into() }, reason });
            }
        }
        found
    }
}
