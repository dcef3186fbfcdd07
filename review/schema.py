"""The tables of a review. One text for SQLite and PostgreSQL.

`open` of a task is how many people may still take it. A changed vote is a row of its own with the
next `revision`; nothing is ever overwritten. Indexes hold all that is asked at each vote: a row of
`task` is long, and counting must not read it.
"""

VERSION = 1

TABLES = """
create table if not exists meta(key text primary key, value text not null);

create table if not exists guideline(
  version bigint primary key, body text not null, at double precision not null);

create table if not exists person(
  id text primary key, name text not null unique, pseudonym text not null unique,
  role text not null, token text unique, active bigint not null, place bigint not null,
  round bigint not null, at double precision not null);

create table if not exists session(
  id text primary key, person text not null references person(id),
  until double precision not null);

create table if not exists picture(name text primary key, data bytea not null);

create table if not exists task(
  id bigint primary key, row_id text not null, place bigint not null unique, open bigint not null,
  purpose text not null, queue text not null, stratum text, inclusion double precision,
  expected text, why text, payload bytea not null, facts bytea not null);
create index if not exists task_open on task(place) where open > 0;
create index if not exists task_left on task(purpose) where open > 0;
create index if not exists task_row on task(row_id);

create table if not exists assignment(
  id text primary key, task bigint not null references task(id),
  person text not null references person(id), first_shown bigint not null, state text not null,
  shown double precision not null, until double precision not null,
  informed bigint not null, unique(task, person));
create index if not exists assignment_due on assignment(until) where state in ('open', 'redo');
create index if not exists assignment_of on assignment(person, state);

create table if not exists vote(
  id text primary key, assignment text not null, task bigint not null references task(id),
  person text not null references person(id), revision bigint not null, choice text not null,
  strength bigint not null, first_shown bigint not null, ms bigint not null,
  at double precision not null, guideline bigint not null, informed bigint not null,
  nonce text not null unique, body text not null, unique(task, person, revision));
create index if not exists vote_of on vote(person, at);

create table if not exists decision(
  task bigint not null references task(id), revision bigint not null,
  person text not null references person(id), choice text not null, strength bigint not null,
  first_shown bigint not null, at double precision not null, guideline bigint not null,
  nonce text not null unique, body text not null, primary key(task, revision));

create table if not exists event(
  id text primary key, at double precision not null, person text, what text not null,
  detail text not null)
"""
