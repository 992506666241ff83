use std::collections::HashMap;
use std::fmt;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Number(f64),
    Text(String),
}

#[derive(Debug)]
pub struct ParseError {
    line: usize,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} is not `key = value`", self.line)
    }
}

pub fn parse(input: &str) -> Result<HashMap<String, Value>, ParseError> {
    let mut values = HashMap::new();
    for (number, line) in input.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let (key, value) = line.split_once('=').ok_or(ParseError { line: number + 1 })?;
        let value = match value.trim().parse::<f64>() {
            Ok(number) => Value::Number(number),
            Err(_) => Value::Text(value.trim().to_owned()),
        };
        values.insert(key.trim().to_string(), value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers() {
        assert_eq!(parse("level = 3.5").unwrap()["level"], Value::Number(3.5));
    }
}
