/**
 * JSON Web Tokens as the original's components use them: signed with Ed25519 (`alg: EdDSA`), claims `scope` and
 * `tenant_id`, and `exp` and `nbf` where whoever made it wanted so. No other algorithm is accepted, `none` least of all.
 *
 *   scope `tenant`         opens the data of the tenant in `tenant_id`, which must be there
 *   scope `pageserverapi`  opens everything; with a `tenant_id` only that tenant, which is stricter than the original
 *   any other scope        is for other services and opens nothing here
 */
import type { KeyObject } from "node:crypto";
import { type JWTPayload, errors, jwtVerify } from "jose";
import { type TenantId, isId } from "../../base/ids.ts";
import { AuthenticationError } from "./authentication-error.ts";
import type { Identity } from "./identity.ts";

/** Far above any token of ours. */
export const JWT_LENGTH_MAX = 8192;
/** How far clocks may be apart. */
const SKEW_S = 30;
const ALGORITHMS = ["EdDSA", "Ed25519"];
const SHAPE = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*$/;

/** Whether a text has the form of such a token, good or not. */
export function looksLikeJwt(text: string): boolean {
  return text.length <= JWT_LENGTH_MAX && SHAPE.test(text);
}

/** Throws `AuthenticationError`. */
export async function verifyJwt(text: string, keys: readonly KeyObject[], nowMs: number): Promise<Identity> {
  if (!looksLikeJwt(text)) throw new AuthenticationError("malformed", "the token is no JSON Web Token");
  for (const key of keys) {
    const payload = await verifiedBy(key, text, nowMs);
    if (payload) return identityOf(payload);
  }
  throw new AuthenticationError("signature", "the token is signed by no key that this pageserver knows");
}

/** Undefined if another key has signed it. */
async function verifiedBy(key: KeyObject, text: string, nowMs: number): Promise<JWTPayload | undefined> {
  try {
    const { payload } = await jwtVerify(text, key, {
      algorithms: ALGORITHMS,
      clockTolerance: SKEW_S,
      currentDate: new Date(nowMs),
    });
    return payload;
  } catch (error) {
    if (error instanceof errors.JWSSignatureVerificationFailed) return undefined;
    throw refusal(error);
  }
}

function refusal(error: unknown): AuthenticationError {
  if (error instanceof errors.JWTExpired) {
    return new AuthenticationError("expired", "the token has expired", {
      hint: "Whoever runs the pageserver makes a new one: neon pageserver token",
    });
  }
  if (error instanceof errors.JOSEAlgNotAllowed || error instanceof errors.JOSENotSupported) {
    return new AuthenticationError(
      "signature",
      "the token is signed in a way that is not accepted: EdDSA is wanted",
    );
  }
  if (
    error instanceof errors.JWTClaimValidationFailed &&
    error.claim === "nbf" &&
    error.reason === "check_failed"
  ) {
    return new AuthenticationError("expired", "the token does not hold yet");
  }
  return new AuthenticationError("malformed", "the token cannot be read");
}

function identityOf(payload: JWTPayload): Identity {
  const { scope, exp, tenant_id: tenantId } = payload;
  const tenant = readTenant(tenantId);
  const expiresAt = exp === undefined ? undefined : (exp + SKEW_S) * 1000;
  switch (scope) {
    case "tenant":
      if (tenant === undefined) {
        throw new AuthenticationError("malformed", 'a token of scope "tenant" needs the claim "tenant_id"');
      }
      return { user: `token of tenant ${tenant}`, tenants: new Set([tenant]), expiresAt };
    case "pageserverapi":
      if (tenant !== undefined) {
        return { user: `token of tenant ${tenant}`, tenants: new Set([tenant]), expiresAt };
      }
      return { user: "token of the pageserver", tenants: "all", expiresAt };
    default:
      if (typeof scope !== "string")
        throw new AuthenticationError("malformed", 'the token has no claim "scope"');
      throw new AuthenticationError(
        "forbidden",
        `a token of scope "${scope.slice(0, 40)}" opens nothing of a pageserver: tenant or pageserverapi is wanted`,
      );
  }
}

function readTenant(claim: unknown): TenantId | undefined {
  if (claim === undefined || claim === null) return undefined;
  const id = typeof claim === "string" ? claim.toLowerCase() : "";
  if (!isId(id))
    throw new AuthenticationError("malformed", 'the claim "tenant_id" of the token is no tenant id');
  return id as TenantId;
}
