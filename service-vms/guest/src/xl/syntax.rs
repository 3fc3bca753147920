//! The grammar of xl.cfg: `key = value` and `key += value`, one a line or with `;` between; a value is a string, a number,
//! or a list of values, which may go over many lines.

use super::lex::{Token, lex};
use crate::notes::{At, Notes, Span};
use crate::text::{code, printable};

/// How deep lists may be in lists. xl's own keys need two.
const MAX_DEPTH: usize = 8;

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A string or a number: xl does not tell them apart.
    Atom(At<String>),
    /// A list, and its place.
    List(Vec<Value>, Span),
}

impl Value {
    pub(super) fn span(&self) -> Span {
        match self {
            Self::Atom(at) => at.span,
            Self::List(_, span) => *span,
        }
    }
}

/// `key = value`.
#[derive(Debug, Clone)]
pub(super) struct Setting<'s> {
    pub(super) key: At<&'s str>,
    /// Whether it is written with `+=`.
    pub(super) adds: bool,
    pub(super) value: Value,
}

/// What can be read of a file; what cannot is reported.
pub(super) fn parse<'s>(text: &'s str, notes: &mut Notes<'_>) -> Vec<Setting<'s>> {
    let mut parser = Parser { tokens: lex(text, notes), at: 0, depth: 0 };
    let mut settings = Vec::new();
    loop {
        match parser.peek().0 {
            Token::End => return settings,
            Token::Newline | Token::Semicolon => parser.next(),
            _ => match parser.setting(notes) {
                Some(setting) => settings.push(setting),
                None => parser.skip_line(),
            },
        }
    }
}

struct Parser<'s> {
    tokens: Vec<(Token<'s>, Span)>,
    at: usize,
    /// Lists that are open at this place.
    depth: usize,
}

const END: &(Token<'static>, Span) = &(Token::End, Span { start: 0, end: 0 });

impl<'s> Parser<'s> {
    fn peek(&self) -> &(Token<'s>, Span) {
        self.ahead(0)
    }

    fn ahead(&self, count: usize) -> &(Token<'s>, Span) {
        self.tokens.get(self.at + count).or(self.tokens.last()).unwrap_or(END)
    }

    fn next(&mut self) {
        self.at += 1;
    }

    /// Whether the next words look like the begin of another setting.
    fn is_at_setting(&self) -> bool {
        matches!(self.peek().0, Token::Word(_))
            && matches!(self.ahead(1).0, Token::Equals | Token::PlusEquals)
    }

    /// After a mistake: goes on with the line after this one, or after the list that was begun.
    fn skip_line(&mut self) {
        let mut depth = std::mem::take(&mut self.depth);
        loop {
            match self.peek().0 {
                Token::End => return,
                Token::Open => depth += 1,
                Token::Close => depth = depth.saturating_sub(1),
                Token::Newline if depth == 0 => return,
                Token::Newline => {
                    self.next();
                    if self.is_at_setting() {
                        return;
                    }
                    continue;
                }
                _ => {}
            }
            self.next();
        }
    }

    /// One setting to the end of its line; `None` after a mistake, which is reported.
    fn setting(&mut self, notes: &mut Notes<'_>) -> Option<Setting<'s>> {
        let (token, span) = self.peek().clone();
        let Token::Word(key) = token else {
            report(
                &token,
                span,
                "A line begins with",
                "write `key = value`, or begin a comment with `#`",
                notes,
            );
            return None;
        };
        self.next();
        let adds = match self.peek() {
            (Token::Equals, _) => false,
            (Token::PlusEquals, _) => true,
            (token, _) => {
                if *token != Token::Bad {
                    report_no_setting(key, span, notes);
                }
                return None;
            }
        };
        if !is_key(key) {
            let lower = key.to_ascii_lowercase().replace('-', "_");
            let help = if is_key(&lower) {
                format!("write `{lower}`: keys are lower-case letters, digits, `.` and `_`")
            } else {
                "keys are lower-case letters, digits, `.` and `_`, and begin with a letter".to_owned()
            };
            notes.error(span, format!("{} is no key", code(key)), help);
            return None;
        }
        self.next();
        let value = self.value(key, notes)?;
        match self.peek().clone() {
            (Token::End | Token::Newline | Token::Semicolon, _) => {}
            (Token::Word(word), span) if is_python_operator(word) => {
                let help = "write the value out: xl does not calculate, as the Python of xm did";
                notes.error(span, format!("{} stands after the value of `{key}`", code(word)), help);
                return None;
            }
            (token, span) => {
                let help = "end a value with the line or with `;`; several values stand in `[ ]`";
                report(&token, span, &format!("After the value of `{key}` stands"), help, notes);
                return None;
            }
        }
        Some(Setting { key: At::new(key, span), adds, value })
    }

    fn value(&mut self, key: &str, notes: &mut Notes<'_>) -> Option<Value> {
        let (token, span) = self.peek().clone();
        match token {
            Token::Text(text) => {
                self.next();
                Some(Value::Atom(At::new(text, span)))
            }
            Token::Word(word) if is_number(word) => {
                self.next();
                Some(Value::Atom(At::new(word.to_owned(), span)))
            }
            Token::Open if self.depth < MAX_DEPTH => {
                self.next();
                self.depth += 1;
                let list = self.list(key, span, notes)?;
                self.depth -= 1;
                Some(list)
            }
            Token::Open => {
                let message = format!("Lists of `{key}` are in one another more than {MAX_DEPTH} deep");
                notes.error(span, message, "write fewer `[`");
                None
            }
            Token::Word(word) => {
                report_word(word, span, notes);
                None
            }
            Token::Newline | Token::Semicolon | Token::End => {
                let help = "write a string in quotes, a number, or a list in `[ ]`";
                // A caret below the line's last character and not in the next line.
                let before = self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map_or(span, |t| t.1);
                notes.error(before, format!("`{key}` has no value"), help);
                None
            }
            token => {
                let help = "write a string in quotes, a number, or a list in `[ ]`";
                report(&token, span, &format!("Where a value of `{key}` should be is"), help, notes);
                None
            }
        }
    }

    /// A list, after its `[`.
    fn list(&mut self, key: &str, open: Span, notes: &mut Notes<'_>) -> Option<Value> {
        let mut values = Vec::new();
        let mut is_comma_due = false;
        loop {
            let (token, span) = self.peek().clone();
            match token {
                Token::Newline => {
                    self.next();
                    if self.is_at_setting() {
                        let help = "add the `]` before the next key";
                        notes.error(open, format!("The list of `{key}` is not closed"), help);
                        // The next key is read as one.
                        self.depth = 0;
                        self.at -= 1;
                        return None;
                    }
                    continue;
                }
                Token::Close => {
                    self.next();
                    return Some(Value::List(values, Span { start: open.start, end: span.end }));
                }
                Token::End => {
                    notes.error(open, format!("The list of `{key}` is not closed"), "add the `]`");
                    return None;
                }
                Token::Comma if is_comma_due => {
                    self.next();
                    is_comma_due = false;
                    continue;
                }
                Token::Text(_) | Token::Word(_) | Token::Open if is_comma_due => {
                    notes.error(
                        span,
                        format!("Two values of `{key}` have no comma between"),
                        "add a `,` before this",
                    );
                    return None;
                }
                _ => {}
            }
            values.push(self.value(key, notes)?);
            is_comma_due = true;
        }
    }
}

fn is_key(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._".contains(&b))
}

/// What libxlu's scanner takes for a number. Whether it is one is seen when it is used as one.
fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
        && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'x'))
}

fn is_python_operator(word: &str) -> bool {
    matches!(word, "+" | "%" | "*" | "if" | "for" | "or" | "and")
}

fn report_no_setting(word: &str, span: Span, notes: &mut Notes<'_>) {
    let help = match word {
        "import" | "from" | "def" | "if" | "else:" | "for" | "print" | "return" => {
            "xm read Python, xl reads settings only: write out what it would make"
        }
        _ => "write `key = value`, or begin a comment with `#`",
    };
    notes.error(span, format!("{} is no setting", code(word)), help);
}

/// Reports a word where a value should be.
fn report_word(word: &str, span: Span, notes: &mut Notes<'_>) {
    let help = match word {
        "True" | "true" | "yes" | "on" => "write 1".to_owned(),
        "False" | "false" | "no" | "off" | "None" => "write 0".to_owned(),
        _ if word.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
            "write a number as `512` or `0x200`, without a unit, and text in quotes".to_owned()
        }
        _ => format!("put it in quotes: `\"{}\"`", printable(word)),
    };
    notes.error(span, format!("{} is neither a string nor a number", code(word)), help);
}

/// Reports a token in a place where it cannot be; not one that is reported already.
fn report(token: &Token<'_>, span: Span, what: &str, help: &str, notes: &mut Notes<'_>) {
    let shown = match token {
        Token::Bad => return,
        Token::Word(word) => code(word),
        Token::Text(_) => "a string".to_owned(),
        Token::Open => "`[`".to_owned(),
        Token::Close => "`]`".to_owned(),
        Token::Comma => "`,`".to_owned(),
        Token::Semicolon => "`;`".to_owned(),
        Token::Equals => "`=`".to_owned(),
        Token::PlusEquals => "`+=`".to_owned(),
        Token::Newline => "the end of the line".to_owned(),
        Token::End => "the end of the file".to_owned(),
    };
    notes.error(span, format!("{what} {shown}"), help);
}
