/** Users of a pageserver's libpq service, over its HTTP API. Passwords stay here: the server gets keys made of them. */
import { type TenantId, parseTenantId } from "../base/ids.ts";
import type { Random } from "../base/seams.ts";
import { formatScramVerifier, makeScramVerifier } from "../pgwire/scram-server.ts";
import { type HttpCall, type HttpTarget, requestJson } from "./http.ts";
import { type JsonObject, arrayField, asObject, optionalTextField, textField } from "./json.ts";

export interface UserInfo {
  readonly name: string;
  /** Null: all. */
  readonly tenants: readonly TenantId[] | null;
  readonly createdAt: string | null;
}

const TIMEOUT_MS = 30_000;

export class UserClient {
  private readonly target: HttpTarget;

  constructor(target: HttpTarget) {
    this.target = target;
  }

  async list(): Promise<UserInfo[]> {
    return arrayField(await this.call("GET", "/v1/user"), "users").map(userOf);
  }

  /** Throws `exists`, and `usage` for a name that cannot be. */
  async add(
    user: { name: string; password: string; tenants: readonly TenantId[] | undefined },
    random: Random,
  ): Promise<UserInfo> {
    const verifier = formatScramVerifier(await makeScramVerifier(user.password, random));
    const body = { name: user.name, verifier, ...(user.tenants ? { tenants: [...user.tenants] } : {}) };
    return userOf(await this.call("POST", "/v1/user", body));
  }

  /** Throws `not_found`. */
  async remove(name: string): Promise<void> {
    await this.call("DELETE", `/v1/user/${encodeURIComponent(name)}`);
  }

  private async call(method: HttpCall["method"], path: string, body?: object): Promise<JsonObject> {
    const answer = await requestJson(this.target, {
      method,
      path,
      timeoutMs: TIMEOUT_MS,
      ...(body ? { body } : {}),
    });
    return asObject(answer, "answer");
  }
}

function userOf(value: unknown): UserInfo {
  const object = asObject(value, "user");
  const all = object["tenants"] === null || object["tenants"] === undefined;
  return {
    name: textField(object, "name"),
    tenants: all ? null : arrayField(object, "tenants").map((id) => parseTenantId(String(id))),
    createdAt: optionalTextField(object, "created_at"),
  };
}
