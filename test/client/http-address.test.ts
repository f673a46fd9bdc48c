/** Where a pageserver that is known over libpq says its HTTP API is, and what is made of that. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { httpAddressOf } from "../../src/client/http-address.ts";
import { resolveUri } from "../../src/client/libpq.ts";
import { type FakeOrigin, type OriginAnswer, fakeOrigin } from "../commands/fake-origin.ts";

const IDENTITY = {
  columns: ["systemid", "protocol_version", "version", "user"],
  row: [null, "1", "1.0", "x"],
};

function says(data: string): (command: string) => OriginAnswer {
  return (command) => (command === "status" ? { columns: ["data"], row: [data] } : IDENTITY);
}

async function addressOf({ port }: FakeOrigin, host = "127.0.0.1"): Promise<object> {
  const { target } = resolveUri(`postgresql://bob:secret@${host}:${port}?sslmode=disable`);
  return httpAddressOf("lab", target);
}

async function failure(work: Promise<object>): Promise<NeonError> {
  const error: unknown = await work.then(
    (found) => assert.fail(JSON.stringify(found)),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof NeonError, String(error));
  assert.doesNotMatch(`${error.message} ${error.hint ?? ""}`, /secret/);
  return error;
}

void test("host, user and password are those of the origin, the port is what the pageserver says", async (t) => {
  const origin = await fakeOrigin(t, says('{"state":"ready","listen":"0.0.0.0:4711"}'));
  const address = await addressOf(origin);
  assert.deepEqual(address, {
    baseUrl: "http://127.0.0.1:4711",
    host: "127.0.0.1",
    port: 4711,
    user: "bob",
    password: "secret",
    tls: undefined,
    passFile: undefined,
  });
  assert.deepEqual(origin.seen, ["identify_system", "status"]);
  const local = await fakeOrigin(t, says('{"listen":"[::1]:4711"}'));
  assert.equal(
    ((await addressOf(local, "localhost")) as { baseUrl: string }).baseUrl,
    "http://localhost:4711",
  );
});

void test("one that does not say it, and what is no pageserver", async (t) => {
  for (const status of ['{"state":"ready"}', '{"listen":null}', '{"listen":"/run/x"}', '{"listen":"a:b"}']) {
    const error = await failure(addressOf(await fakeOrigin(t, says(status))));
    assert.equal(error.code, ErrorCode.Unsupported, status);
    assert.match(error.hint ?? "", /--pageserver https:/);
  }
  for (const status of ["", "[]", "{", "x".repeat(100_000), '{"listen":5}']) {
    const error = await failure(addressOf(await fakeOrigin(t, says(status))));
    assert.ok(
      [ErrorCode.Unreachable, ErrorCode.Unsupported].some((code) => code === error.code),
      status.slice(0, 20),
    );
  }
});
