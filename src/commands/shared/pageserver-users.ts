/** From a pageserver to its users. */
import type { PageserverClient } from "../../client/pageserver-client.ts";
import { UserClient } from "../../client/users.ts";

export function userClientOf(server: PageserverClient): UserClient {
  return new UserClient(server.target);
}
