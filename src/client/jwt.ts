/** Key pairs for tokens, and tokens signed with them, for the command line that hands them out. */
import { type KeyObject, createPrivateKey, generateKeyPairSync } from "node:crypto";
import { SignJWT } from "jose";
import { ErrorCode, NeonError, messageOf } from "../base/errors.ts";
import type { TenantId } from "../base/ids.ts";

export const TOKEN_SCOPES = ["tenant", "pageserverapi"] as const;
export type TokenScope = (typeof TOKEN_SCOPES)[number];

export interface TokenRequest {
  readonly scope: TokenScope;
  /** The only tenant that it opens; scope `tenant` needs one. */
  readonly tenantId: TenantId | undefined;
  /** Milliseconds since 1970. */
  readonly now: number;
  readonly expiresAt: number;
}

/** An Ed25519 pair, in PEM. The private half is secret. */
export function makeKeyPair(): { publicPem: string; privatePem: string } {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  return {
    publicPem: publicKey.export({ type: "spki", format: "pem" }).toString(),
    privatePem: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
  };
}

/** Throws `usage` for what is no private Ed25519 key in PEM. */
export function readPrivateKey(pem: string, path: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch (error) {
    throw new NeonError(ErrorCode.Usage, `${path} is no private key in PEM: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (key.asymmetricKeyType === "ed25519") return key;
  throw new NeonError(ErrorCode.Usage, `${path} is no Ed25519 key`, {
    hint: "`neon pageserver key` makes one.",
  });
}

export function signToken(
  key: KeyObject,
  { scope, tenantId, now, expiresAt }: TokenRequest,
): Promise<string> {
  return new SignJWT({ scope, ...(tenantId === undefined ? {} : { tenant_id: tenantId }) })
    .setProtectedHeader({ alg: "EdDSA", typ: "JWT" })
    .setIssuedAt(Math.floor(now / 1000))
    .setExpirationTime(Math.floor(expiresAt / 1000))
    .sign(key);
}
