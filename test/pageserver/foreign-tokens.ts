/** Keys that open one tenant, and what looks like a key and opens nothing. */
import { type KeyObject, createHmac, createPublicKey, generateKeyPairSync, sign } from "node:crypto";
import { readPrivateKey } from "../../src/client/jwt.ts";
import { TOKEN } from "./harness.ts";
import { type Door, OWN } from "./foreign-world.ts";

type Pair = Readonly<Record<"publicPem" | "privatePem", string>>;
type Sign = (text: string) => Buffer;

function base64(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString("base64url");
}

/** By hand, so that everything about it can be wrong. */
function token(header: object, claims: object, signed: Sign): string {
  const text = `${base64(header)}.${base64(claims)}`;
  return `${text}.${signed(text).toString("base64url")}`;
}

function signer(key: KeyObject): Sign {
  return (text) => sign(null, Buffer.from(text), key);
}

function doorOf(name: string, jwt: string): Door {
  return { name, authorization: `Bearer ${jwt}`, user: "somebody", password: jwt };
}

const EDDSA = { alg: "EdDSA", typ: "JWT" };

function inAnHour(): number {
  return Math.floor(Date.now() / 1000) + 3600;
}

/** A token of scope `tenant`. */
export function tenantDoor(keys: Pair, tenant: string): Door {
  const signed = signer(readPrivateKey(keys.privatePem, "key"));
  const claims = { scope: "tenant", tenant_id: tenant, exp: inAnHour() };
  return doorOf(`token of ${tenant}`, token(EDDSA, claims, signed));
}

/** Opens everything. */
export const MASTER: Door = {
  name: "auth_token",
  authorization: `Bearer ${TOKEN}`,
  user: "neon",
  password: TOKEN,
};

/** Keys to the own tenant, and to nothing else. */
export function ownDoors(keys: Pair): Door[] {
  const signed = signer(readPrivateKey(keys.privatePem, "key"));
  const api = { scope: "pageserverapi", tenant_id: OWN, exp: inAnHour() };
  const basic = Buffer.from("alice:alice-password").toString("base64");
  return [
    tenantDoor(keys, OWN),
    doorOf("pageserverapi token of one tenant", token(EDDSA, api, signed)),
    { name: "user", authorization: `Basic ${basic}`, user: "alice", password: "alice-password" },
  ];
}

/** Scopes that the original has for other services and for its control plane. */
const OTHER_SCOPES = [
  "tenantendpoint",
  "safekeeperdata",
  "generations_api",
  "admin",
  "infra",
  "scrubber",
  "controller_peer",
];

/** Tokens that open nothing. All of them say that they open the foreign tenant, or everything. */
export function badDoors(keys: Pair, foreign: string): Door[] {
  const key = readPrivateKey(keys.privatePem, "key");
  const good = signer(key);
  const stranger = generateKeyPairSync("ed25519");
  const hmac =
    (secret: string | Buffer): Sign =>
    (text) =>
      createHmac("sha256", secret).update(text).digest();
  const exp = inAnHour();
  const all = { scope: "pageserverapi", exp };
  const one = { scope: "tenant", tenant_id: foreign, exp };
  const ofOwn = token(EDDSA, { scope: "tenant", tenant_id: OWN, exp }, good);
  const [head = "", , signature = ""] = ofOwn.split(".");
  const whole = token(EDDSA, one, good);
  const raw = createPublicKey(key).export({ type: "spki", format: "der" }).subarray(-32);
  const jwk = stranger.publicKey.export({ format: "jwk" });
  const tokens: [string, string][] = [
    ["expired", token(EDDSA, { ...one, exp: exp - 7200 }, good)],
    ["not yet", token(EDDSA, { ...one, nbf: exp }, good)],
    ["other key", token(EDDSA, one, signer(stranger.privateKey))],
    ["other key, named in the header", token({ ...EDDSA, jwk, kid: "x" }, all, signer(stranger.privateKey))],
    ["alg none", token({ alg: "none" }, all, () => Buffer.alloc(0))],
    ["alg NONE with the signature", token({ alg: "NONE" }, all, good)],
    ["HS256, public key in PEM as secret", token({ alg: "HS256" }, all, hmac(keys.publicPem))],
    ["HS256, bytes of the public key as secret", token({ alg: "HS256" }, all, hmac(raw))],
    ["truncated", whole.slice(0, -12)],
    ["without signature", whole.slice(0, whole.lastIndexOf("."))],
    ["with an empty signature", whole.slice(0, whole.lastIndexOf(".") + 1)],
    ["claims of another token", `${head}.${base64(one)}.${signature}`],
    ["tenant scope without tenant", token(EDDSA, { scope: "tenant", exp }, good)],
    ["tenant_id that is a list", token(EDDSA, { ...one, tenant_id: [foreign, OWN] }, good)],
    ["scope that is a list", token(EDDSA, { ...all, scope: ["pageserverapi", "tenant"] }, good)],
    ...OTHER_SCOPES.map((scope): [string, string] => [`scope ${scope}`, token(EDDSA, { scope, exp }, good)]),
  ];
  return tokens.map(([name, jwt]) => doorOf(name, jwt));
}
