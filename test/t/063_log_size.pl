# The change log stays small under steady load, and a member that is away costs disk only.
#
# Three nodes with small segments: under load on all of them the log's size on disk does
# not grow with what was written, nor does the catalog with the segments that were emptied.
# When all is quiet nobody beats, neither among three nor while one is away; what is kept
# for the one that is away raises the alarm of max_log_size, which names it, and goes when
# it has come back.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use PostgreSQL::Test::Utils;
use Test::More;

my @nodes = new_group(
    nodes => [qw(a b c)],
    conf => q{
        cozesync.segment_size = '256kB'
        autovacuum_naptime = '1s'
        autovacuum_vacuum_threshold = 200
    },
    schema => q{
        CREATE TABLE t (id int PRIMARY KEY, n bigint, v text);
        INSERT INTO t SELECT g, 0, repeat('x', 300) FROM generate_series(1, 1000) g;
    });
my ($a, $b, $c) = @nodes;
my $tmp = PostgreSQL::Test::Utils::tempdir();

# --- load ------------------------------------------------------------------------------

my $script = "$tmp/update.sql";
append_to_file($script, "\\set id random(1, 1000)\nUPDATE t SET n = n + 1, v = repeat('y', 300) WHERE id = :id;\n");

# So many transactions on each of these nodes, side by side.
sub write_on
{
    my ($transactions, @where) = @_;
    my @runs = map {
        my ($out, $err) = ('', '');
        IPC::Run::start([ $_->installed_command('pgbench'), '-n', '-f', $script, '-t', $transactions,
            $_->connstr('postgres') ], '<', \undef, '>', \$out, '2>', \$err)
    } @where;
    $_->finish for @runs;
    return !grep { $_->result(0) } @runs;
}

sub stat_of
{
    my ($node, $what) = @_;
    return $node->safe_psql('postgres', "SELECT $what FROM cozesync.stats");
}

sub catalog_size
{
    return $_[0]->safe_psql('postgres', "SELECT pg_total_relation_size('pg_class')
        + pg_total_relation_size('pg_attribute') + pg_total_relation_size('pg_depend')");
}

ok(write_on(500, @nodes), 'load');
my $catalog = catalog_size($a);
my ($most, $total) = (0, 0);
my $wal = $a->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
for my $round (1 .. 6)
{
    write_on(500, @nodes) or die 'pgbench failed';
    $total += 3 * 500 * 400;
    my $size = stat_of($a, 'log_bytes');
    $most = $size if $size > $most;
}
note "some $total bytes of entries, log never above $most";
cmp_ok($total, '>', 3_500_000, 'more was written than the log may hold');
cmp_ok($most, '<', 3_000_000, 'and the log stayed small on disk');
ok(wait_quiet(@nodes), 'in sync');
ok(poll_until($a, "SELECT log_bytes < 1500000 FROM cozesync.stats"), 'it is smaller still when all is quiet');
cmp_ok(catalog_size($a) - $catalog, '<', 2_000_000, 'the catalog did not bloat');

# --- beats -------------------------------------------------------------------------------

# All go quiet: the vector of a node stands still for twenty beats' time.
sub goes_quiet
{
    my (@where) = @_;
    for (1 .. 30)
    {
        my @before = map { $_->safe_psql('postgres', 'SELECT cozesync.vector()') } @where;
        $where[0]->safe_psql('postgres', 'SELECT pg_sleep(2)');
        my @after = map { $_->safe_psql('postgres', 'SELECT cozesync.vector()') } @where;
        return 1 if "@before" eq "@after";
    }
    return 0;
}

ok(goes_quiet(@nodes), 'nobody beats when nothing is written');
is($a->safe_psql('postgres', q{SELECT count(*) FROM cozesync.entries() WHERE kind <> 'beat' AND hlc > (SELECT cut FROM cozesync.stats)}),
    0, 'and all that was written is forgotten');
is(stat_of($a, 'log_held_by IS NULL'), 't', 'nothing is kept for anybody');

# --- a member that is away -------------------------------------------------------------------

$c->stop;
$a->append_conf('postgresql.conf', "cozesync.max_log_size = '1MB'");
$a->reload;
my $log_at = -s $a->logfile;
write_on(2500, $a, $b) or die 'pgbench failed';
ok($a->wait_for_log(qr/the change log of database "postgres" has \d+ MB, more than cozesync.max_log_size allows/, $log_at),
    'a log that is too large is reported');
like(slurp_file($a->logfile, $log_at), qr/are kept for node "c".*\n.*drop_node\('c'\)/, 'and for whom it is kept, and the way out');
is(stat_of($a, 'log_held_by || log_is_too_large::text'), 'ctrue', 'stats says so');
is($a->safe_psql('postgres', q{SELECT string_agg(source || target, ' ') FROM cozesync.links WHERE log_alarm}), 'ac', 'so does its link');
is($a->safe_psql('postgres', "SELECT cozesync.wait_for_sync(interval '60 s', 'b')"), 't', 'the others go on');
ok(goes_quiet($a, $b), 'nobody beats while a member is away');
my $beats = $a->safe_psql('postgres', q{SELECT count(*) FROM cozesync.entries() WHERE kind = 'beat'});
cmp_ok($beats, '<', 300, "beats in the log: $beats");

$log_at = -s $a->logfile;
$c->start;
ok(wait_quiet(@nodes), 'it comes back and gets everything');
same_rows(\@nodes, ['t'], 'all nodes are the same');
ok($a->wait_for_log(qr/the change log is no larger any more/, $log_at), 'what was kept for it goes');

# --- log_retention ------------------------------------------------------------------------------

$a->append_conf('postgresql.conf', "cozesync.log_retention = '1h'");
$a->reload;
$a->safe_psql('postgres', "UPDATE t SET v = 'kept' WHERE id = 1");
write_on(1500, $a) or die 'pgbench failed';
ok(wait_quiet(@nodes), 'in sync');
ok(poll_until($a, q{SELECT cut > (SELECT hlc FROM cozesync.changes() WHERE new_row ->> 'v' = 'kept') FROM cozesync.stats}),
    'with log_retention what no node needs is kept');
$a->append_conf('postgresql.conf', "cozesync.log_retention = '0'");
$a->reload;
write_on(1500, $a) or die 'pgbench failed';
ok(poll_until($a, q{SELECT NOT EXISTS (SELECT FROM cozesync.changes() WHERE new_row ->> 'v' = 'kept')}),
    'and without it goes');

done_testing();
