//! Everything in a `.proto` file has a comment.

use super::Breach;

/// Checks one file, line by line: a declaration needs a comment above it, or behind it.
pub fn check(path: &str, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut above = false;
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("//") {
            above = true;
            continue;
        }
        let behind = line.contains("//");
        // A declaration that goes on from the line before is the same one.
        if !open
            && let Some(what) = declared(line)
            && !above
            && !behind
        {
            breaches.push(Breach {
                place: format!("{path}:{}", index + 1),
                rule: "wire comment",
                what: format!("{what} has no comment"),
                fix: "say in a line above it what it means, with its unit".to_owned(),
            });
        }
        let code = line.split("//").next().unwrap_or_default().trim_end();
        open = !code.is_empty() && !code.ends_with([';', '{', '}']);
        above = false;
    }
    breaches
}

/// What a line declares, if it declares something.
fn declared(line: &str) -> Option<String> {
    let mut words = line.split(|c: char| c.is_whitespace() || c == '(' || c == '{');
    let first = words.next()?;
    match first {
        "message" | "enum" | "service" | "rpc" | "oneof" => {
            Some(format!("{first} {}", words.find(|word| !word.is_empty())?))
        }
        "syntax" | "package" | "import" | "option" | "reserved" | "extensions" => None,
        _ => {
            let (left, right) = line.split_once('=')?;
            let number = right
                .trim_start()
                .starts_with(|c: char| c.is_ascii_digit() || c == '-');
            number.then(|| format!("`{}`", left.split_whitespace().last().unwrap_or(left)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
// Jobs.
syntax = \"proto3\";

package a.v1;

import \"b.proto\";

// A service.
service S {
  // Submits.
  rpc Submit(A) returns (stream B);
}

// A message.
message A {
  reserved 4;
  // A field.
  map<string, uint32> field = 1;
  // One of two. Required.
  oneof choice {
    // The first.
    string first = 2;
    string second = 3; // The second.
  }
}

// An enum.
enum E {
  // Not given.
  E_UNSPECIFIED = 0;
}

// Empty.
message Empty {}
";

    #[test]
    fn a_commented_file_passes() {
        assert_eq!(check("a.proto", GOOD), []);
    }

    #[test]
    fn every_missing_comment_is_found() {
        for declaration in [
            "service S",
            "rpc Submit",
            "message A",
            "`field`",
            "oneof choice",
            "`first`",
            "`second`",
            "enum E",
            "`E_UNSPECIFIED`",
            "message Empty",
        ] {
            let word = declaration.trim_matches('`');
            let mut lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
            let at = lines
                .iter()
                .position(|line| !line.trim().starts_with("//") && line.contains(word))
                .unwrap();
            if lines[at].contains("//") {
                lines[at] = lines[at].split("//").next().unwrap().to_owned();
            } else {
                lines.remove(at - 1);
            }
            let found = check("a.proto", &lines.join("\n"));
            assert_eq!(found.len(), 1, "{declaration}");
            assert_eq!(found[0].what, format!("{declaration} has no comment"));
        }
    }

    #[test]
    fn a_declaration_over_two_lines_is_one() {
        let text =
            "// A service.\nservice S {\n  // Calls.\n  rpc Call(A)\n      returns (B);\n}\n";
        assert_eq!(check("a.proto", text), []);
    }
}
