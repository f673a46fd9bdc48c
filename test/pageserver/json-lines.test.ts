import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { type LongWork, jsonLines } from "../../src/pageserver/service/json-lines.ts";

function linesOf(work: (context: LongWork) => Promise<object>): AsyncIterable<Uint8Array> {
  const answer = jsonLines(work);
  assert.ok(answer.kind === "stream");
  return answer.stream;
}

async function all(lines: AsyncIterable<Uint8Array>): Promise<unknown[]> {
  const values: unknown[] = [];
  for await (const line of lines) {
    const text = new TextDecoder().decode(line);
    assert.ok(text.endsWith("\n"));
    values.push(JSON.parse(text));
  }
  return values;
}

test("the result is the last line, and the only one of work that is quick", async () => {
  assert.deepEqual(await all(linesOf(async () => ({ answer: 42 }))), [{ result: { answer: 42 } }]);
});

test("while work goes on, the latest progress is told again and again", async () => {
  let finish: (value: object) => void = () => undefined;
  const lines = linesOf(({ progress }) => {
    progress({ done: 1 });
    progress({ done: 2 });
    return new Promise((resolve) => (finish = resolve));
  });
  const seen: unknown[] = [];
  for await (const line of lines) {
    seen.push(JSON.parse(new TextDecoder().decode(line)));
    if (seen.length === 2) finish({});
  }
  assert.deepEqual(seen, [{ progress: { done: 2 } }, { progress: { done: 2 } }, { result: {} }]);
});

test("an error is the last line, with its code", async () => {
  const failing = linesOf(() => Promise.reject(new NeonError(ErrorCode.NotChecked, "no", { hint: "h" })));
  assert.deepEqual(await all(failing), [
    { msg: "no", error: { code: "not_checked", message: "no", hint: "h", data: {} } },
  ]);
});

test("work is told when nobody waits any more, and is waited for", async () => {
  const events: string[] = [];
  const lines = linesOf(
    ({ signal }) =>
      new Promise((resolve) => {
        signal.addEventListener("abort", () => {
          events.push("told");
          setImmediate(() => {
            events.push("ended");
            resolve({});
          });
        });
      }),
  );
  for await (const line of lines) {
    assert.ok(line.length > 0);
    break;
  }
  assert.deepEqual(events, ["told", "ended"]);
});
