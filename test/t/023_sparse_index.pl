# Every own entry that is in the log is found, though the index has only some of them:
# what each rule of writing and reading it is for, and what may happen in between:
# rollbacks, savepoints, vacuum, crashes, emptied segments, tables written anew.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use RuleTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($a, $b) = map { new_node($_, conf => <<'CONF') } qw(a b);
cozesync.segment_size = '64kB'
cozesync.log_retention = '1d'
synchronous_commit = off
autovacuum = off
CONF
rule_servers($a, $b);

# Inserts with a transaction each, and what of the log is not found: read page by page
# without the index, and through it.
my $setup = q{
    CREATE TABLE u (id int PRIMARY KEY, v text);
    CREATE PROCEDURE each_row(first int, n int, v text DEFAULT 'x') LANGUAGE plpgsql AS $$
        BEGIN
            FOR i IN first .. first + n - 1 LOOP
                INSERT INTO u VALUES (i, v); COMMIT;
            END LOOP;
        END $$;
    CREATE VIEW logged AS
        SELECT cozesync.hlc_time(l.hlc) AS hlc, l.ctid, l.segment
          FROM (} . join(' UNION ALL ', map { "SELECT hlc, origin, ctid, $_ AS segment FROM cozesync.log_$_" } 1 .. 8) . q{) l
          JOIN cozesync.local_node n USING (origin);
    CREATE VIEW found AS SELECT hlc FROM cozesync.entries() WHERE origin = cozesync.node_name();
    CREATE VIEW lost AS SELECT hlc FROM logged EXCEPT ALL SELECT hlc FROM found;
    CREATE VIEW twice AS SELECT hlc FROM found EXCEPT ALL SELECT hlc FROM logged;
    CREATE EXTENSION pgstattuple;
    SELECT cozesync.add_table('u')};

sub prepare
{
    $b->safe_psql(db(), 'CREATE TABLE u (id int PRIMARY KEY, v text)');
    sql($a, $setup);
    return;
}

sub nothing_lost
{
    return sql($a, 'SELECT count(*) FROM lost') == 0 && sql($a, 'SELECT count(*) FROM twice') == 0;
}

# How many rows of the heads the indexes have, and how many there are.
sub indexed_and_all
{
    return split /\|/, sql($a, q{
        SELECT (SELECT sum((pgstattuple(i.indexrelid)).tuple_count) FROM pg_index i
                WHERE i.indrelid::regclass::text ~ '^cozesync.log_'),
               (SELECT sum((pgstattuple(c.oid)).tuple_count) FROM pg_class c WHERE c.relkind = 'r' AND
                c.oid::regclass::text ~ '^cozesync.log_')});
}

# A transaction that fails behind its entry: its temporary tables cannot be emptied.
sub fails
{
    my ($id) = @_;
    return qq{
        BEGIN; INSERT INTO u VALUES ($id, 'never');
        CREATE TEMP TABLE emptied (id int PRIMARY KEY) ON COMMIT DELETE ROWS;
        CREATE TEMP TABLE refers (id int REFERENCES emptied);
        COMMIT;};
}

# The entry that would lead is gone, and with it whoever followed: several times, since on a
# machine under load they may be too far from each other.
scenario('behind an entry that was rolled back', 'leader-committed', sub {
    my ($off) = @_;
    prepare();
    for my $id (1 .. 20)
    {
        my (undef, undef, $err) = $a->psql(db(), fails($id) . "CALL each_row($id, 1);", on_error_stop => 0);
        return 0 if $err !~ /unsupported ON COMMIT/ || !nothing_lost();
        last if !$off && $id == 5;
    }
    return 1;
});

# The leader's page is full.
scenario('from one page to the next', 'follower-in-page', sub {
    prepare();
    sql($a, 'CALL each_row(1, 400)');
    return sql($a, 'SELECT count(DISTINCT (segment, (ctid::text::point)[0])) > 3 FROM logged') eq 't' && nothing_lost();
});

# Who begins to read behind an entry goes back far enough.
scenario('long after its leader', 'follower-near', sub {
    prepare();
    sql($a, q{CALL each_row(1, 1);
        DO $$ DECLARE since timestamptz := clock_timestamp();
        BEGIN
            WHILE clock_timestamp() < since + interval '300 ms' LOOP PERFORM pg_sleep(0.01); END LOOP;
        END $$;
        CALL each_row(2, 1)});
    return sql($a, q{
        WITH its AS MATERIALIZED (
            SELECT e.hlc FROM cozesync.entries() e WHERE e.xid = (SELECT xmin::text::bigint FROM u WHERE id = 2)
                AND e.origin = cozesync.node_name())
        SELECT count(*) FROM its, cozesync.entries(its.hlc - interval '1 us') e
         WHERE e.hlc = its.hlc AND e.origin = cozesync.node_name()}) == 1;
});

scenario('reading on in the midst of a page', 'begin-earlier', sub {
    prepare();
    sql($a, 'CALL each_row(1, 40)');
    return sql($a, q{
        SELECT bool_and((SELECT count(*) FROM cozesync.entries(l.hlc) e
                          WHERE e.origin = cozesync.node_name() AND e.hlc <= (SELECT max(hlc) FROM logged))
                        = (SELECT count(*) FROM logged m WHERE m.hlc > l.hlc)) FROM logged l}) eq 't';
});

# The last entry of an origin need not be in the page of the last leader: one backend has begun
# earlier, and the other has put another leader between.
scenario('the last entry behind another backend\'s', undef, sub {
    prepare();
    my $interleaved = 0;
    for my $try (1 .. 50)
    {
        my $first = 10 * $try;
        sql($a, qq{CREATE EXTENSION IF NOT EXISTS dblink;
            SELECT dblink_connect('other', 'port=' || current_setting('port') || ' host=' ||
                current_setting('unix_socket_directories') || ' dbname=' || current_database() || ' user=' || current_user);
            CALL each_row($first, 1);
            SELECT dblink_exec('other', 'INSERT INTO u VALUES ($first + 1)');
            CALL each_row($first + 2, 1);
            SELECT dblink_disconnect('other')}) if $try == 1 || !$interleaved;
        my ($last, $highest) = split /\|/, sql($a, q{
            SELECT cozesync.last_logged(origin), cozesync.time_hlc((SELECT max(hlc) FROM logged)) FROM cozesync.local_node});
        return 0 if $last != $highest;
        $interleaved = 1 if sql($a, q{
            SELECT hlc - lag(hlc, 2) OVER (ORDER BY hlc) < interval '100 ms' AND
                   (ctid::text::point)[0] = ((lag(ctid, 2) OVER (ORDER BY hlc))::text::point)[0]
              FROM logged ORDER BY hlc DESC LIMIT 1}) eq 't';
        last if $interleaved;
    }
    return $interleaved;
});

# All of this at once.
begin();
prepare();
{
    # the segments fill while backends share pages, fail, roll back to savepoints, and others read
    $a->append_conf('postgresql.conf', 'autovacuum = on');
    $a->reload;
    my $writer = sub {
        my ($first) = @_;
        return background($a, qq{
            \\set ON_ERROR_STOP off
            CALL each_row($first, 300);
            BEGIN; INSERT INTO u VALUES ($first + 5000); SAVEPOINT s; INSERT INTO u VALUES ($first + 5001);
            ROLLBACK TO s; COMMIT;
            } . fails($first + 6000) . qq{
            CALL each_row($first + 300, 10);
            BEGIN; INSERT INTO u VALUES ($first + 7000); ROLLBACK;
            CALL each_row($first + 310, 90, repeat('y', 400));}, db());
    };
    my @running = map { $writer->($_ * 10000) } 1 .. 4;
    my $looks = 0;
    for (1 .. 5)
    {
        sql($a, "VACUUM cozesync.log_$_") for 1 .. 8;
        # what one has seen without the index the other finds later, below the horizon
        $looks++ if sql($a, q{
            WITH seen AS MATERIALIZED (SELECT hlc FROM logged),
                 now AS MATERIALIZED (SELECT hlc FROM found WHERE (SELECT count(*) FROM seen) >= 0)
            SELECT count(*) = 0 FROM seen WHERE hlc <= (SELECT max(hlc) FROM now) AND hlc NOT IN (SELECT hlc FROM now)}) eq 't';
    }
    $_->finish for @running;
    is($looks, 5, 'who reads while others write finds what was there');
    is(sql($a, 'SELECT count(*) FROM u'), 4 * 401, 'all rows that committed are there');
    ok(nothing_lost(), 'and all their entries are found');
    wait_quiet(\db(), $a, $b);
    ok(equal() && digest($a, 'u', db()) eq digest($b, 'u', db()), 'the other node has them');
    my ($indexed, $all) = indexed_and_all();
    cmp_ok($indexed, '<', $all / 2, 'most of them are not in the index');

    # A crash takes whatever it takes; what is left is found, and the clock goes on above it.
    my $load = background($a, 'CALL each_row(1000000, 1000000)', db());
    until_true($a, 'SELECT count(*) > 50 FROM u WHERE id >= 1000000');
    crash_node($a);
    $load->finish;
    ok(nothing_lost(), 'after a crash all entries are found that are there');
    sql($a, 'CALL each_row(60000, 3)');
    is(sql($a, q{SELECT count(*) FROM logged GROUP BY hlc HAVING count(*) > 1}), '', 'none has the hlc of another');
    ok(nothing_lost(), 'and those that came after');

    # Tables that are written anew, and indexes that are.
    my $current = sql($a, 'SELECT segment FROM logged ORDER BY hlc DESC LIMIT 1');
    sql($a, "VACUUM FULL cozesync.log_$current");
    ok(nothing_lost(), 'after VACUUM FULL, which moves rows');
    sql($a, "REINDEX TABLE cozesync.log_$current");
    my $meanwhile = background($a, 'CALL each_row(70000, 2000)', db());
    sql($a, "REINDEX TABLE CONCURRENTLY cozesync.log_$_") for 1 .. 8;
    is(($meanwhile->finish)[2], '', 'REINDEX CONCURRENTLY disturbs no commit');
    ok(nothing_lost(), 'and no entry is lost by it');
    sql($a, 'CALL each_row(61000, 200)');
    ok(nothing_lost(), 'and with followers behind entries that REINDEX has put into the index');
    wait_quiet(\db(), $a, $b);
    ok(digest($a, 'u', db()) eq digest($b, 'u', db()), 'the other node has all of them');

    # Nobody's query goes through the index.  Each look-up reads all of the log, so a hundred must do.
    is(sql($a, q{SET enable_seqscan = off; SELECT count(*) FROM (SELECT hlc FROM logged ORDER BY random() LIMIT 100) l
        WHERE NOT EXISTS (SELECT FROM (} . join(' UNION ALL ', map { "SELECT hlc, origin FROM cozesync.log_$_" } 1 .. 8) . q{) m
        WHERE m.origin = (SELECT origin FROM cozesync.local_node) AND m.hlc = cozesync.time_hlc(l.hlc))}), '0',
        'a query by origin and hlc does not miss what the index lacks');

    # Emptied, and written to by a backend that had its leader there.
    $a->append_conf('postgresql.conf', "cozesync.log_retention = '0'");
    $a->reload;
    my $rounds = sql($a, q{SELECT string_agg(pg_relation_filenode('cozesync.log_' || i)::text, ',') FROM generate_series(1, 8) i});
    my $base = 100000;
    for (1 .. 100)
    {
        sql($a, "CALL each_row($base, 300)");
        $base += 300;
        last if sql($a, q{SELECT count(*) = 0 FROM unnest(string_to_array('} . $rounds . q{', ',')) WITH ORDINALITY AS r (f, i)
            WHERE pg_relation_filenode('cozesync.log_' || i) = f::oid}) eq 't';
    }
    ok(nothing_lost(), 'when segments are emptied and filled again');
    wait_quiet(\db(), $a, $b);
    ok(digest($a, 'u', db()) eq digest($b, 'u', db()), 'the other node has all of those');
}
end();

done_testing();
