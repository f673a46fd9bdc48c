/** The description of the API, served by itself. */
import { json } from "../request.ts";
import type { ApiRouter } from "../route-context.ts";
import { openApiDocument, openApiPage } from "./document.ts";

export function addOpenApiRoutes(router: ApiRouter, version: string): void {
  const document = openApiDocument(version);
  // JSON is YAML as well.
  const text = `${JSON.stringify(document, null, 2)}\n`;
  const page = openApiPage(version);
  router
    .add("GET", "/v1/openapi.json", async () => json(document), "open")
    .add("GET", "/swagger.yml", async () => ({ kind: "text", contentType: "application/yaml", text }), "open")
    .add(
      "GET",
      "/v1/doc",
      async () => ({ kind: "text", contentType: "text/html; charset=utf-8", text: page }),
      "open",
    );
}
