/**
 * Who may come in, for all services: the auth_token, users with passwords, JSON Web Tokens. Without an auth_token and
 * without keys for tokens, whoever reaches the pageserver over a loopback address may do everything.
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import type { Clock, Random } from "../../base/seams.ts";
import { type ScramVerifier, makeScramVerifier, mockScramVerifier } from "../../pgwire/scram-server.ts";
import { DEFAULT_USER } from "../../pgwire/uri.ts";
import { AuthenticationError } from "./authentication-error.ts";
import type { Identity } from "./identity.ts";
import { looksLikeJwt, verifyJwt } from "./jwt.ts";
import type { JwtKeys } from "./jwt-keys.ts";
import type { Users } from "./users.ts";

/** Longest Authorization header that is looked at. */
const HEADER_LENGTH_MAX = 12_000;
const PASSWORD_LENGTH_MAX = 1000;

export interface AuthenticationOptions {
  /** Opens everything: as bearer token, and as the password of the user `neon`. */
  readonly token: string | undefined;
}

export interface AuthenticationDependencies {
  readonly users: Pick<Users, "find">;
  /** Without keys, no JSON Web Token is accepted. */
  readonly keys: JwtKeys | undefined;
  readonly clock: Clock;
  readonly random: Random;
}

/** What is known of a client beside what it shows. */
export interface Peer {
  /** The connection does not leave this machine. */
  readonly loopback: boolean;
}

export class Authentication {
  private readonly token: string | undefined;
  private readonly dependencies: AuthenticationDependencies;
  private readonly mockSecret = randomBytes(32);

  constructor(options: AuthenticationOptions, dependencies: AuthenticationDependencies) {
    this.token = options.token;
    this.dependencies = dependencies;
  }

  /** Whether JSON Web Tokens can be checked at all. */
  get takesTokens(): boolean {
    return this.dependencies.keys !== undefined;
  }

  /** Whether nothing needs to be shown. */
  isOpenTo(peer: Peer): boolean {
    return peer.loopback && this.token === undefined && !this.takesTokens;
  }

  /** Of `Authorization: Bearer TOKEN` or `Basic …`, or of its absence. Throws `AuthenticationError`. */
  async ofHeader(header: string | undefined, peer: Peer): Promise<Identity> {
    if (header === undefined || header.trim() === "") {
      if (this.isOpenTo(peer)) return { user: "local", tenants: "all" };
      throw new AuthenticationError("missing", "the pageserver wants a token or a password", {
        hint: TOKEN_HINT,
      });
    }
    const match = header.length > HEADER_LENGTH_MAX ? null : /^(bearer|basic) +([^ ]+) *$/i.exec(header);
    const credentials = match?.[2];
    if (credentials === undefined) {
      throw new AuthenticationError("malformed", "the Authorization header is neither Bearer nor Basic", {
        hint: TOKEN_HINT,
      });
    }
    return match?.[1]?.toLowerCase() === "basic" ? this.basic(credentials) : this.bearer(credentials);
  }

  /** Of a JSON Web Token, wherever it was shown. Throws `AuthenticationError`. */
  async jwt(text: string): Promise<Identity> {
    const { keys, clock } = this.dependencies;
    return verifyJwt(text, keys?.current() ?? [], clock.now());
  }

  /** Of a user's name and password. Throws `AuthenticationError`, the same for a user that there is not. */
  async password(user: string, password: string): Promise<Identity> {
    const known = this.dependencies.users.find(user);
    // The auth_token is long and random: no need to make guessing dear.
    if (!known && user === DEFAULT_USER && this.token !== undefined && sameText(password, this.token)) {
      return { user, tenants: "all" };
    }
    // As over libpq, a token may be shown as the password of any name that is nobody's here.
    if (!known && user !== DEFAULT_USER && this.takesTokens && looksLikeJwt(password))
      return this.jwt(password);
    const verifier = known?.verifier ?? mockScramVerifier(user, this.mockSecret);
    if ((await this.fits(password, verifier)) && known) return known.identity;
    throw new AuthenticationError("unknown", "the pageserver does not know this user or password", {
      hint: "`neon pageserver user list` shows the users of a pageserver.",
    });
  }

  private async bearer(token: string): Promise<Identity> {
    if (this.token !== undefined && sameText(token, this.token))
      return { user: DEFAULT_USER, tenants: "all" };
    if (this.takesTokens && looksLikeJwt(token)) return this.jwt(token);
    throw new AuthenticationError("unknown", "the pageserver does not know this token", { hint: TOKEN_HINT });
  }

  private async basic(credentials: string): Promise<Identity> {
    const text = decodeBasic(credentials);
    const colon = text?.indexOf(":") ?? -1;
    if (text === undefined || colon < 0) {
      throw new AuthenticationError("malformed", "the Authorization header holds no user and password");
    }
    return this.password(text.slice(0, colon), text.slice(colon + 1));
  }

  private async fits(password: string, verifier: ScramVerifier): Promise<boolean> {
    if (password.length > PASSWORD_LENGTH_MAX) return false;
    const { salt, iterations } = verifier;
    const made = await makeScramVerifier(password, this.dependencies.random, { salt, iterations });
    return timingSafeEqual(made.storedKey, verifier.storedKey);
  }
}

const TOKEN_HINT =
  "Use the auth_token of this pageserver's pageserver.toml, a token of `neon pageserver token`, or a user's name and password.";

function decodeBasic(credentials: string): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.from(credentials, "base64"));
  } catch {
    return undefined;
  }
}

/** Hashes first: `timingSafeEqual` wants equal lengths, and the length of the token is nobody's business. */
function sameText(a: string, b: string): boolean {
  return timingSafeEqual(createHash("sha256").update(a).digest(), createHash("sha256").update(b).digest());
}
