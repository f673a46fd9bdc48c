/** What the server says of itself: files that are whole, so that tools find every type in them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { describedFiles, listServices } from "../support/grpc-reflection.ts";
import { Stage } from "./grpc-stage.ts";

const TIMESTAMP = "google/protobuf/timestamp.proto";

void test("files have the names under which they are imported, and their imports come along", async () => {
  await using stage = await Stage.start();
  const address = `127.0.0.1:${stage.service.port}`;
  for (const version of ["v1", "v1alpha"] as const) {
    assert.deepEqual((await listServices(address, version)).sort(), [
      "grpc.health.v1.Health",
      "page_api.PageService",
    ]);
    const files = await describedFiles(address, version, { symbol: "page_api.PageService" });
    // grpcurl gives up where a type is of a file that the file with the service does not import.
    assert.deepEqual(files, [
      { name: "page_service.proto", imports: [TIMESTAMP] },
      { name: TIMESTAMP, imports: [] },
    ]);
    for (const { name, imports } of files) {
      const [again] = await describedFiles(address, version, { file: name });
      assert.deepEqual(again, { name, imports });
    }
    assert.deepEqual(await describedFiles(address, version, { symbol: "grpc.health.v1.Health.Check" }), [
      { name: "grpc/health/v1/health.proto", imports: [] },
    ]);
  }
});
