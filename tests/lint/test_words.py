"""The word list finds its terms wherever people read them, and nowhere else."""

import unittest
from pathlib import Path

from words import findings, language_of, passages


def found(language, content):
    """The words that are found, each with its line."""
    return [(line, message.split("'")[1]) for line, message in sorted(set(findings(language, content)))]


class Words(unittest.TestCase):
    """One test for each place that is read or not read."""

    def test_comment_is_read_and_code_in_it_is_not(self):
        self.assertEqual(found("rust", "// The answer of `answer()`.\nlet answer = 1;"), [(1, "answer")])

    def test_term_that_wraps_is_found_in_its_first_line(self):
        self.assertEqual(found("rust", "fn a() {}\n    // It looks\n    // at a thing.\n"), [(2, "looks at")])
        self.assertEqual(found("python", "# It was given\n# up.\n"), [(1, "given up")])
        self.assertEqual(found("sql", "-- None is left\n-- behind.\nselect 1\n"), [(1, "left behind")])

    def test_comments_apart_are_not_one_sentence(self):
        self.assertEqual(found("rust", "// It looks\nlet a = 1;\n// at\n"), [])

    def test_code_span_that_wraps_is_not_read(self):
        self.assertEqual(found("rust", "// Uses `let answer =\n// question` and ends.\n"), [])

    def test_message_is_read_and_the_names_in_its_braces_are_not(self):
        self.assertEqual(found("rust", 'panic!("the {answer} was refused");'), [(1, "refused")])
        self.assertEqual(found("python", 'f"the {answer} was refused"'), [(1, "refused")])
        self.assertEqual(found("javascript", "warn(`the ${answer} was refused`)"), [(1, "refused")])

    def test_message_over_two_lines_is_one_sentence(self):
        self.assertEqual(found("rust", 'let a = "it looks \\\n     at b";\n'), [(1, "looks at")])

    def test_literal_that_is_an_identifier_is_not_read(self):
        self.assertEqual(found("rust", '"text" "answer_to" "a.text"'), [])

    def test_label_of_one_word_is_read(self):
        self.assertEqual(found("javascript", "label('Verdict'); key('verdict')"), [(1, "Verdict")])

    def test_raw_string_is_read(self):
        self.assertEqual(found("rust", 'let a = r#"the "first" answer of it"#;'), [(1, "answer")])

    def test_quotes_in_characters_and_patterns_do_not_hide_what_follows(self):
        self.assertEqual(
            found("rust", "let a = '\"'; // An answer.\nfn f<'a>(b: &'a str) {} // Text."), [(1, "answer"), (2, "Text")]
        )
        self.assertEqual(found("javascript", "a.replace(/[\"'`]/g, '') // An answer.\n"), [(1, "answer")])
        self.assertEqual(
            found("shell", "# Don't.\n# An answer.\necho \"it's refused\"\n"), [(2, "answer"), (3, "refused")]
        )

    def test_slashes_of_a_url_are_not_a_comment(self):
        self.assertEqual(found("javascript", "get('https://answer/b'); // Refused."), [(1, "Refused")])

    def test_code_in_a_template_is_read_as_code(self):
        self.assertEqual(found("javascript", "a(`${b ? 'it was refused' : answer} now`)"), [(1, "refused")])

    def test_name_of_a_test_is_read_and_that_of_a_function_is_not(self):
        self.assertEqual(found("rust", "#[test]\nfn an_answer_is_sent() {}\nfn answer_it_now() {}\n"), [(2, "answer")])
        self.assertEqual(found("rust", "    #[test]\n    #[cfg(unix)]\n    fn a_text_is_kept() {}\n"), [(3, "text")])
        self.assertEqual(found("python", "def test_answer_is_sent(self):\n    pass\n"), [(1, "answer")])
        self.assertEqual(found("javascript", "test('an answer is sent', () => {})"), [(1, "answer")])

    def test_attributes_and_words_of_html_are_read(self):
        page = '<p class="text" title="An answer">It was refused</p><script>let answer</script>'
        self.assertEqual(found("html", page), [(1, "answer"), (1, "refused")])

    def test_comments_and_values_of_settings_are_read(self):
        unit = "; An answer.\n[Unit]\nDescription=It was refused by text\n"
        self.assertEqual(found("settings", unit), [(1, "answer"), (3, "refused"), (3, "text")])
        self.assertEqual(found("settings", "name: the answer of it\ntext: 1\n"), [(1, "answer")])
        self.assertEqual(found("settings", 'description = "An answer of it"\n'), [(1, "answer")])

    def test_code_in_markdown_is_not_read(self):
        self.assertEqual(found("markdown", "A text with `text`.\n```\ntext\n```\n[a](text/b)\n"), [(1, "text")])

    def test_words_that_are_right_in_their_place_stay(self):
        right = (
            "// Plain text, a text file, in fact; a count of users is no longer needed; acts as one; question mark.\n"
        )
        self.assertEqual(found("javascript", right), [])
        self.assertEqual(found("sql", "-- param name TEXT the name\n-- These are whole numbers.\n"), [])
        self.assertEqual(found("javascript", "// The number of users, and that of its users.\n"), [])
        self.assertEqual(
            found("javascript", "// The number of a user is no id.\n"), [(1, "is no id"), (1, "number of a user")]
        )

    def test_riddle_is_found_in_the_first_line_of_a_doc_comment_alone(self):
        self.assertEqual(found("rust", "/// Whether it is there.\nfn a() {}\n"), [(1, "Whether")])
        self.assertEqual(found("rust", "/// True if it exists.\n/// What else.\nfn a() {}\n// What.\n"), [])
        self.assertEqual(found("rust", "/// Who reads it?\nfn a() {}\n"), [])
        self.assertEqual(found("python", 'def a():\n    """What it is."""\n'), [(2, "What")])
        self.assertEqual(found("javascript", "/** How many. */\n"), [(1, "How")])

    def test_comment_may_have_100_columns(self):
        def wide(columns):
            return "// " + "a" * (columns - 3)

        self.assertEqual(list(findings("rust", wide(100))), [])
        self.assertEqual([line for line, _ in findings("rust", "\n" + wide(101) + "\n")], [2])
        self.assertEqual([line for line, _ in findings("rust", 'let a = "' + "b" * 120 + '";\n')], [])
        self.assertEqual([line for line, _ in findings("rust", "let a = 1; " + wide(95))], [1])
        self.assertEqual(list(findings("rust", "// https://" + "a" * 120)), [])

    def test_scripts_are_known_by_their_first_line(self):
        self.assertEqual(language_of(Path("run"), "#!/usr/bin/env python3\n"), "python")
        self.assertEqual(language_of(Path("run"), "#!/usr/bin/env bash\n"), "shell")
        self.assertEqual(language_of(Path("Makefile"), ""), "shell")
        self.assertIsNone(language_of(Path("a.png"), ""))

    def test_offsets_stay_true(self):
        content = 'let a = 1;\n/// One.\n/// Two.\nfn b() { "three four" }\n'
        for _, offset, string in passages("rust", content):
            for at, character in enumerate(string):
                self.assertIn(character, (" ", content[offset + at]))


if __name__ == "__main__":
    unittest.main()
