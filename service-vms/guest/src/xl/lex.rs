//! xl.cfg as words: what libxlu's scanner takes for one, plus the words that it stumbles over, for better errors.

use crate::notes::{Notes, Span};

/// A word of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'s> {
    /// A key, a number, or what should have been in quotes.
    Word(&'s str),
    /// A string, without quotes and escapes.
    Text(String),
    Open,
    Close,
    Comma,
    Semicolon,
    Newline,
    Equals,
    PlusEquals,
    /// What is no word, and is reported.
    Bad,
    /// The end of the file, once and last.
    End,
}

pub(super) fn lex<'s>(text: &'s str, notes: &mut Notes<'_>) -> Vec<(Token<'s>, Span)> {
    let mut lexer = Lexer { text, at: if text.starts_with('\u{feff}') { 3 } else { 0 } };
    let mut tokens = Vec::new();
    while let Some(c) = lexer.peek() {
        let start = lexer.at;
        let token = lexer.token(c, notes);
        tokens.extend(token.map(|token| (token, Span { start, end: lexer.at })));
    }
    tokens.push((Token::End, Span { start: text.len(), end: text.len() }));
    tokens
}

struct Lexer<'s> {
    text: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Goes on to the first character that `stop` holds of, and gives what it passed.
    fn until(&mut self, stop: impl Fn(char) -> bool) -> &'s str {
        let rest = self.rest();
        let length = rest.find(stop).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or("")
    }

    /// The word at a character; `None` for blanks and comments.
    fn token(&mut self, c: char, notes: &mut Notes<'_>) -> Option<Token<'s>> {
        let single = match c {
            ' ' | '\t' | '\r' => None,
            '\n' => Some(Token::Newline),
            '[' => Some(Token::Open),
            ']' => Some(Token::Close),
            ',' => Some(Token::Comma),
            ';' => Some(Token::Semicolon),
            '=' => Some(Token::Equals),
            '#' => {
                self.until(|c| c == '\n');
                return None;
            }
            '"' | '\'' => return Some(self.string(c, notes)),
            '+' if self.rest().starts_with("+=") => {
                self.at += 2;
                return Some(Token::PlusEquals);
            }
            // Here and not among the characters that end a word: it is one that begins with a `+`.
            '+' => {
                self.at += 1;
                return Some(Token::Word("+"));
            }
            _ => {
                return Some(Token::Word(self.until(|c| {
                    c.is_whitespace() || matches!(c, '[' | ']' | ',' | ';' | '=' | '#' | '"' | '\'' | '+')
                })))
                .filter(|word| *word != Token::Word(""))
                .or_else(|| self.blank(c, notes));
            }
        };
        self.at += 1;
        single
    }

    /// White space that libxlu does not know.
    fn blank(&mut self, c: char, notes: &mut Notes<'_>) -> Option<Token<'s>> {
        let start = self.at;
        self.at += c.len_utf8();
        let message = format!("This blank is the character `{}`", c.escape_unicode());
        notes.error(Span { start, end: self.at }, message, "write a space");
        Some(Token::Bad)
    }

    /// A string in quotes, which ends in its line.
    fn string(&mut self, quote: char, notes: &mut Notes<'_>) -> Token<'s> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        let mut is_good = true;
        loop {
            text.push_str(self.until(|c| c == quote || matches!(c, '\\' | '\n')));
            match self.peek() {
                Some('\\') => {
                    let escape = self.at;
                    self.at += 1;
                    let Some(c) = self.peek().filter(|c| *c != '\n') else { continue };
                    self.at += c.len_utf8();
                    match unescape(c) {
                        Ok(c) => text.push(c),
                        Err(help) => {
                            is_good = false;
                            let message = format!("Unknown escape `\\{}`", c.escape_default());
                            notes.error(Span { start: escape, end: self.at }, message, help);
                        }
                    }
                }
                Some(c) if c == quote => {
                    self.at += 1;
                    return if is_good { Token::Text(text) } else { Token::Bad };
                }
                _ => {
                    let help = format!("close it with `{quote}` in the same line");
                    notes.error(Span { start, end: self.at }, "This string is not closed", help);
                    return Token::Bad;
                }
            }
        }
    }
}

/// What stands for a character after a backslash. libxlu's, but for the numeric ones, which it reads and drops.
fn unescape(c: char) -> Result<char, &'static str> {
    match c {
        '"' | '\'' | '\\' => Ok(c),
        'a' => Ok('\u{7}'),
        'b' => Ok('\u{8}'),
        'f' => Ok('\u{c}'),
        'n' => Ok('\n'),
        'r' => Ok('\r'),
        't' => Ok('\t'),
        'v' => Ok('\u{b}'),
        'x' | '0'..='7' => Err("write the character itself: xl leaves numbered ones out of the string"),
        _ => Err("write `\\\\` for a backslash"),
    }
}
