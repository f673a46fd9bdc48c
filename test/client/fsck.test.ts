/** Answers that come in lines. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { NeonError } from "../../src/base/errors.ts";
import { parseTenantId } from "../../src/base/ids.ts";
import { PageserverClient } from "../../src/client/pageserver-client.ts";
import { fakeHttp } from "./fake-http.ts";

const TENANT = parseTenantId("0".repeat(32));
const TIMELINE = "1".repeat(32);
const FINDING = { kind: "corrupt", what: "is damaged", file: "/x", offset: 7 };
const PART = { state: "corrupt", details: [FINDING], omitted: 2 };
const RESULT = {
  state: "corrupt",
  timelines: [{ timeline_id: TIMELINE, branches: ["main"], ...PART, something_new: 1 }],
  tenant: { state: "clean", details: [], omitted: 0 },
};

test("progress is passed on, the result parsed", async (t) => {
  const { baseUrl, seen } = await fakeHttp(t, (_, response) => {
    response.writeHead(200, { "content-type": "application/x-ndjson" });
    const lines = [{ progress: {} }, { progress: { done_bytes: 5, total_bytes: 9 } }, { result: RESULT }];
    const text = lines.map((line) => `${JSON.stringify(line)}\n`).join("");
    // Cut anywhere: lines are not chunks.
    response.write(text.slice(0, 30));
    setImmediate(() => response.end(text.slice(30)));
  });
  const client = new PageserverClient({ baseUrl, tenantId: TENANT });
  const progress: number[][] = [];
  const report = await client.fsck({ progress: (...numbers) => progress.push(numbers) });
  assert.deepEqual(progress, [[5, 9]]);
  assert.deepEqual(report.timelines, [{ timelineId: TIMELINE, branches: ["main"], ...PART }]);
  assert.equal(report.tenant.state, "clean");
  assert.equal(seen[0]?.url, `/v1/tenant/${TENANT}/fsck`);
});

test("an error, a broken answer and nonsense are told apart", async (t) => {
  let text = "";
  const { baseUrl } = await fakeHttp(t, (_, response) => {
    response.writeHead(200, { "content-type": "application/x-ndjson" });
    response.end(text);
  });
  const client = new PageserverClient({ baseUrl, tenantId: TENANT });
  const failure = async (answer: string): Promise<string> => {
    text = answer;
    try {
      await client.fsck({});
    } catch (error) {
      assert.ok(error instanceof NeonError, String(error));
      return `${error.code}: ${error.message}`;
    }
    return "";
  };
  assert.equal(
    await failure('{"progress":{}}\n{"error":{"code":"corrupt","message":"tenant.json is gone"}}\n'),
    "corrupt: tenant.json is gone",
  );
  assert.match(await failure('{"progress":{}}\n{"resu'), /^unreachable: .* broke off its answer/);
  assert.match(await failure(""), /broke off/);
  assert.match(await failure("<html>\n"), /is not a pageserver/);
  assert.match(await failure("7\n"), /is not a pageserver/);
  assert.match(await failure('{"result":{"state":"clean"}}\n'), /has no list "timelines"/);
});
