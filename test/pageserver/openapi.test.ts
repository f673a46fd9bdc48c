/** The description of the API and the API have the same routes, and nothing is described that nobody uses. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { openApiDocument, openApiPage } from "../../src/pageserver/service/openapi/document.ts";
import { OPERATIONS, operationKey } from "../../src/pageserver/service/openapi/operations.ts";
import { SCHEMAS } from "../../src/pageserver/service/openapi/schemas.ts";
import { Harness } from "./harness.ts";

void test("every route is described, and every description has its route", async () => {
  await using harness = await Harness.start();
  const routes = harness.server.routes.map(({ method, pattern }) => operationKey(method, pattern));
  // It is answered before the routes are asked.
  routes.push("GET /v1/status");
  assert.deepEqual(Object.keys(OPERATIONS).sort(), routes.sort());
  const shown = await harness.call("GET", "/v1/openapi.json", undefined, {});
  assert.equal(shown.status, 200);
  const open = harness.server.routes.filter(({ access }) => access === "open").map(({ pattern }) => pattern);
  assert.deepEqual(open.sort(), ["/swagger.yml", "/v1/doc", "/v1/openapi.json"]);
});

void test("every schema is used, every operation has a name of its own", () => {
  const document = openApiDocument("1.2.3");
  const text = JSON.stringify(document);
  for (const name of Object.keys(SCHEMAS)) {
    assert.ok(text.includes(`"#/components/schemas/${name}"`), name);
  }
  for (const [, name = ""] of text.matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
    assert.ok(Object.hasOwn(SCHEMAS, name), name);
  }
  const ids = [...text.matchAll(/"operationId":"([^"]+)"/g)].map(([, id]) => id);
  assert.equal(ids.length, Object.keys(OPERATIONS).length);
  assert.equal(new Set(ids).size, ids.length);
  assert.match(openApiPage("<1>"), /&lt;1>/);
});
