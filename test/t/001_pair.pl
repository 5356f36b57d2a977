# Two nodes formed with the statements of the README both take writes and stay equal.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b) = new_pair(
    schema => q{
        CREATE TABLE users (id int PRIMARY KEY, name text, at timestamptz DEFAULT now());
        CREATE TABLE blobs (name text PRIMARY KEY, body text, n numeric);
        CREATE TABLE parts (region text, id int, note text, PRIMARY KEY (region, id))
            PARTITION BY LIST (region);
        CREATE TABLE parts_eu PARTITION OF parts FOR VALUES IN ('eu');
        CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
        INSERT INTO users SELECT g, 'user ' || g FROM generate_series(1, 100) g;
        INSERT INTO parts SELECT CASE WHEN g % 2 = 0 THEN 'eu' ELSE 'us' END, g, 'p'
          FROM generate_series(1, 20) g;
    });
my @both = ($a, $b);
my @tables = qw(users blobs parts);

same_rows(\@both, \@tables, 'the joiner has the rows that were there');
is($b->safe_psql('postgres', q{SELECT string_agg(node_name || ' ' || state, ', ' ORDER BY node_name) FROM cozesync.nodes}),
    'a ready, b ready', 'both are ready');

# Every kind of change, both ways.
$a->safe_psql('postgres', q{
    INSERT INTO users SELECT g, 'a ' || g FROM generate_series(1001, 1050) g;
    UPDATE users SET name = name || '!' WHERE id <= 50;
    DELETE FROM users WHERE id BETWEEN 51 AND 60;
    UPDATE parts SET region = 'us' WHERE id = 2});
$b->safe_psql('postgres', q{
    INSERT INTO users SELECT g, 'b ' || g FROM generate_series(2001, 2050) g;
    UPDATE users SET id = id + 5000 WHERE id BETWEEN 61 AND 70;
    INSERT INTO blobs SELECT 'big' || g, string_agg(md5((g * i)::text), ''), 1e30 / g
      FROM generate_series(1, 3) g, generate_series(1, 4000) i GROUP BY g;
    INSERT INTO blobs VALUES ('null', NULL, 'NaN')});
ok(wait_sync(@both), 'in sync');
same_rows(\@both, \@tables, 'inserts, updates, deletes, key changes, moves between partitions');

# A long value that a statement leaves alone travels with its row.
$a->safe_psql('postgres', q{UPDATE blobs SET n = 7 WHERE name LIKE 'big%'});
ok(wait_sync(@both), 'in sync');
same_rows(\@both, ['blobs'], 'unchanged long values stay');

# What was rolled back is nowhere, what was kept of a transaction is everywhere.
$a->safe_psql('postgres', q{
    BEGIN; INSERT INTO users VALUES (9001, 'kept');
    SAVEPOINT s; INSERT INTO users VALUES (9002, 'gone'); UPDATE users SET name = 'gone'; ROLLBACK TO s;
    INSERT INTO users VALUES (9003, 'kept'); COMMIT;
    BEGIN; DELETE FROM users; ROLLBACK;});
ok(wait_sync(@both), 'in sync');
same_rows(\@both, \@tables, 'savepoints and rollbacks');
is($b->safe_psql('postgres', 'SELECT string_agg(id::text, $$,$$ ORDER BY id) FROM users WHERE id > 9000'),
    '9001,9003', 'only what was kept came');

is($a->safe_psql('postgres', q{SELECT count(*) FROM cozesync.conflicts}), 0, 'no conflict on a');
is($b->safe_psql('postgres', q{SELECT count(*) FROM cozesync.conflicts}), 0, 'no conflict on b');

# A write of each side that had not seen the other's: one wins on both, the
# loser is in both logs.
$_->safe_psql('postgres', 'SELECT cozesync.pause()') for @both;
poll_until($_, q{SELECT bool_and(state = 'paused') FROM cozesync.links}) for @both;
$a->safe_psql('postgres', q{UPDATE users SET name = 'from a' WHERE id = 1});
$b->safe_psql('postgres', q{UPDATE users SET name = 'from b' WHERE id = 1});
is($a->safe_psql('postgres', q{SELECT cozesync.wait_for_sync('100 ms')}), 'f',
    'wait_for_sync says so when a link is paused');
$_->safe_psql('postgres', 'SELECT cozesync.resume()') for @both;
ok(wait_sync(@both), 'in sync');
same_rows(\@both, ['users'], 'same winner');
is($b->safe_psql('postgres', 'SELECT name FROM users WHERE id = 1'), 'from b', 'the later write won');
for my $node (@both)
{
    is($node->safe_psql('postgres', q{
        SELECT relation, key ->> 'id', conflict_type,
               (CASE outcome WHEN 'kept local' THEN remote_row ELSE local_row END) ->> 'name'
          FROM cozesync.conflicts}),
        'users|1|update_update|from a', $node->name . ' has logged the write that lost');
}

# The applier waits for a user's lock, says so, and says so no more once it has it.
my $holder = $b->background_psql('postgres');
$holder->query_safe('BEGIN; UPDATE users SET name = name WHERE id = 3');
$a->safe_psql('postgres', q{UPDATE users SET name = 'waited for' WHERE id = 3});
my $stream = q{FROM cozesync.links WHERE source = 'a'};
ok(poll_until($b, "SELECT state = 'stopped' AND held_back_by_pid IS NOT NULL $stream"), 'a lock is waited for');
$holder->query_safe('COMMIT');
$holder->quit;
ok(wait_sync(@both), 'in sync once the lock is free');
is($b->safe_psql('postgres', "SELECT state, stopped_at IS NULL, held_back_by_pid IS NULL $stream"),
    'streaming|t|t', 'the link goes on');
same_rows(\@both, ['users'], 'same rows after a lock was waited for');

# A truncation travels.
$a->safe_psql('postgres', 'TRUNCATE parts');
ok(wait_sync(@both), 'in sync');
is($b->safe_psql('postgres', 'SELECT count(*) FROM parts'), 0, 'TRUNCATE of a partitioned table');

# A crash of either node loses nothing and doubles nothing.
$a->safe_psql('postgres', q{INSERT INTO users SELECT g, 'before the crash' FROM generate_series(20001, 20100) g});
crash_node($b);
$b->safe_psql('postgres', q{INSERT INTO users SELECT g, 'after it' FROM generate_series(30001, 30100) g});
crash_node($a);
ok(wait_sync(@both), 'in sync after crashes');
same_rows(\@both, \@tables, 'same rows after crashes');
is($b->safe_psql('postgres', 'SELECT count(*) FROM users WHERE id > 20000'), 200, 'and all of them');

done_testing();
