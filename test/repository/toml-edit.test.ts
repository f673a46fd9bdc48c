import assert from "node:assert/strict";
import { test } from "node:test";
import { parse } from "@iarna/toml";
import { setTomlValue } from "../../src/repository/toml-edit.ts";
import { SeededRandom } from "../support/random.ts";

const FILE = `# first
a = 1 # one

[table]   # a table
x = "y # no comment" # but this is
"odd key" = 'single'

# trailing
[table.sub]
n = 5
`;

test("a value is replaced where it stands, its comment stays", () => {
  const text = setTomlValue(FILE, ["a"], 2);
  assert.match(text, /^a = 2 # one$/m);
  assert.equal(text.split("\n").length, FILE.split("\n").length);
  assert.match(setTomlValue(FILE, ["table", "x"], "z"), /^x = "z" # but this is$/m);
  assert.match(setTomlValue(FILE, ["table", "odd key"], "q"), /^"odd key" = "q"$/m);
});

test("a new key goes to the end of its table, a new table to the end of the file", () => {
  const added = setTomlValue(FILE, ["table", "b"], 7);
  assert.deepEqual(parse(added)["table"], { x: "y # no comment", "odd key": "single", b: 7, sub: { n: 5 } });
  assert.match(setTomlValue(FILE, ["new", "dotted.name", "k"], "v"), /\n\[new\."dotted\.name"\]\nk = "v"\n$/);
  assert.equal(setTomlValue("", ["t", "k"], 1), "[t]\nk = 1\n");
  assert.equal(setTomlValue("", ["k"], 1).trim(), "k = 1");
});

test("removing takes the line; removing what is not there changes nothing", () => {
  assert.doesNotMatch(setTomlValue(FILE, ["a"], undefined), /^a =/m);
  assert.equal(setTomlValue(FILE, ["b"], undefined), FILE);
  assert.equal(setTomlValue(FILE, ["nowhere", "b"], undefined), FILE);
});

test("random edits agree with a plain object", (t) => {
  const random = SeededRandom.forTest(t);
  const tables = [[], ["t"], ["t", "a b"], ["u.v"]];
  const keys = ["a", "key-1", "with space", 'quote"d', "ü"];
  let text = "# head\n";
  const model = new Map<string, string | number>();
  for (let i = 0; i < 300; i++) {
    const path = [...random.pick(tables), random.pick(keys)];
    const value = random.chance(0.2)
      ? undefined
      : random.chance(0.5)
        ? random.below(1e6)
        : random.pick(["", "x", 'a "b" \\ # c', "é\t\n"]);
    text = setTomlValue(text, path, value);
    if (value === undefined) model.delete(JSON.stringify(path));
    else model.set(JSON.stringify(path), value);
    const parsed: unknown = parse(text);
    for (const [pathText, expected] of model) {
      let at: unknown = parsed;
      for (const name of JSON.parse(pathText) as string[]) at = (at as Record<string, unknown>)[name];
      assert.equal(at, expected, pathText);
    }
  }
  assert.ok(text.startsWith("# head\n"));
});
