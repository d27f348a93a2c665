//! Where the layers of a net stand in its text.

use super::{
    error::position,
    lexer::{Lexer, Token},
};

/// The lines on which the layers of a net file begin, in the order of the parsed net.
///
/// A light scan over tokens: strings and comments are respected, nothing is checked. Whoever finds
/// a fault in layer i long after parsing can so name its line.
///
/// ```
/// let text = "name: 'n'\nlayer { name: 'a' }\n# layer {\nlayer {\n  name: 'b'\n}\n";
/// let lines = caffe_proto::text::LayerLines::scan(text);
/// assert_eq!((lines.get(0), lines.get(1), lines.get(2)), (Some(2), Some(4), None));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerLines {
    lines: Vec<usize>,
    input: Option<usize>,
}

impl LayerLines {
    /// Finds the `layer` and `layers` blocks of a net's text, up to the first fault if it has one.
    pub fn scan(text: &str) -> Self {
        let mut found = Self::default();
        let mut lexer = Lexer::new(text);
        // Counted from the previous block on, so that the whole text is walked once.
        let (mut counted, mut line) = (0, 1);
        let mut line_of = |at: usize| {
            line += position(&text[counted..], at - counted).0 - 1;
            counted = at;
            line
        };
        let mut depth = 0_usize;
        let mut field: Option<&str> = None;
        let mut listed = false;
        while let Ok((token, span)) = lexer.next_token() {
            match token {
                Token::End => break,
                Token::Ident(name) if depth == 0 => {
                    field = Some(name);
                    listed = false;
                    if name.starts_with("input") && found.input.is_none() {
                        found.input = Some(line_of(span.start));
                    }
                    if is_layer(name) {
                        found.lines.push(line_of(span.start));
                    }
                }
                // In `layer: [ { … }, { … } ]` the name has counted for the first block.
                Token::Punct('{' | '<') => {
                    if depth == 0 && listed && field.is_some_and(is_layer) {
                        found.lines.push(line_of(span.start));
                    }
                    depth += 1;
                    listed = true;
                }
                Token::Punct('}' | '>') => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        found
    }

    /// The line on which layer `index` begins, from 1.
    pub fn get(&self, index: usize) -> Option<usize> {
        self.lines.get(index).copied()
    }

    /// The line of the first `input…` field of the net, from 1.
    pub fn input(&self) -> Option<usize> {
        self.input
    }

    /// Takes out layers, given by their places in ascending order.
    pub(crate) fn remove(&mut self, layers: &[usize]) {
        let mut at = 0..;
        self.lines.retain(|_| at.next().is_none_or(|at| !layers.contains(&at)));
    }

    /// Puts a layer made from the `input` fields before all others.
    pub(crate) fn prepend_input(&mut self) {
        self.lines.insert(0, self.input.unwrap_or(1));
    }
}

fn is_layer(name: &str) -> bool {
    matches!(name, "layer" | "layers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_comments_and_nested_blocks_do_not_count() {
        let text = "name: 'layer {'\n# layer {\nlayer {\n  layer { }\n}\nlayers <\n>\nlayer: { }";
        assert_eq!(LayerLines::scan(text).lines, [3, 6, 8]);
    }

    #[test]
    fn lists_count_each_block() {
        let text = "layer: [\n{ param { } },\n\n{ },\n{ }]\nlayer { }";
        assert_eq!(LayerLines::scan(text).lines, [1, 4, 5, 6]);
    }

    #[test]
    fn inputs_have_a_line_too() {
        let text = "name: 'x'\n\ninput: 'data'\ninput_dim: 1\nlayer {\n}";
        let mut lines = LayerLines::scan(text);
        assert_eq!(lines.input(), Some(3));
        lines.prepend_input();
        assert_eq!((lines.get(0), lines.get(1)), (Some(3), Some(5)));
    }
}
