/** Routes about who may come in: users, and the keys of tokens. Passwords never come here: clients send keys made of them. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { json } from "./request.ts";
import type { ApiRouter, RouteContext } from "./route-context.ts";
import type { User } from "./users.ts";

const VERIFIER_LENGTH_MAX = 1000;

export function addUserRoutes(router: ApiRouter, { users, keys }: RouteContext): void {
  router
    .add("GET", "/v1/user", async () => json({ users: users.list().map(renderUser) }))
    .add("POST", "/v1/user", async (request) => {
      const body = await request.body();
      const name = body.text("name");
      const verifier = body.text("verifier", { maxLength: VERIFIER_LENGTH_MAX });
      const tenants = body.has("tenants") ? body.texts("tenants") : undefined;
      body.end();
      return json(renderUser(await users.add({ name, verifier, tenants })), 201);
    })
    .add("DELETE", "/v1/user/:name", async (request) => {
      await users.remove(request.part("name"));
      return json({ removed: request.part("name") });
    })
    .add("POST", "/v1/reload_auth_validation_keys", async () => {
      if (!keys) throw new NeonError(ErrorCode.Usage, "there are no keys: jwt_public_key is not set");
      return json({ keys: keys.reload() });
    });
}

function renderUser(user: User): object {
  return {
    name: user.name,
    tenants: user.tenants === "all" ? null : [...user.tenants],
    created_at: new Date(user.createdAt).toISOString(),
  };
}
