# Large entries that meet many conflicts: every row and record is right, and what that
# takes is counted: an entry is not read again for each of its conflicts.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use ApplyTest;
use CozeTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $server = apply_server('large', qw(a b c));
$server->append_conf('postgresql.conf', "log_min_messages = debug2\n");
$server->reload;

my $n = 6000;

# How often a large entry was read while code ran.
sub reads
{
    my ($code) = @_;
    my $at = -s $server->logfile;
    $code->();
    my $log = slurp_file($server->logfile, $at);
    my $count = () = $log =~ /reading a large entry/g;
    return $count;
}

sub at_most
{
    my ($got, $max, $name) = @_;
    cmp_ok($got, '<=', $max, $name);
    return;
}

# The conflict log without what differs by node: whom a loser met first.
sub losses
{
    my ($db, $table) = @_;
    return sql($db, "SELECT count(*), count(DISTINCT key), min(conflict_type), max(conflict_type),
        md5(string_agg(format('%s %s %s', key, conflict_type, loser_origin),
            ',' ORDER BY key::text, loser_origin)) FROM cozesync.conflict WHERE table_name = '$table'");
}

everywhere('t', 'CREATE TABLE t (k int PRIMARY KEY, v int, w text)');
sql('a', "INSERT INTO t SELECT i, 0, repeat('x', 20) FROM generate_series(1, $n) i");
carry_all();

# a writes all rows; b, which has not seen that, half of them; c a few
sub clash
{
    my ($v) = @_;
    sql('a', "UPDATE t SET v = $v");
    sql('b', "UPDATE t SET v = $v + 1 WHERE k % 2 = 0");
    sql('c', "UPDATE t SET v = $v + 2 WHERE k % 100 = 0");
    return;
}

for my $round ('once', 'once more')
{
    my $v = $round eq 'once' ? 10 : 20;
    sql($_, 'TRUNCATE cozesync.conflict') for qw(a b c);
    clash($v);
    at_most(reads(sub { carry('a', 'b') }), 4, "$round: a large entry meets a large one");
    at_most(reads(sub { carry('b', 'a') }), 4, "$round: and the other way round");
    at_most(reads(sub { carry_all() }), 20, "$round: everywhere");
    is(sql('a', "SELECT count(*) FILTER (WHERE v = $v), count(*) FILTER (WHERE v = $v + 1),
        count(*) FILTER (WHERE v = $v + 2) FROM t"),
        join('|', $n / 2, $n / 2 - $n / 100, $n / 100), "$round: each row is the last one written");
    unlike(same('t'), qr/ \| /, "$round: all nodes have the same rows");
    my %logs = map { losses($_, 't') => 1 } qw(a b c);
    is(scalar(keys %logs), 1, "$round: the same conflicts are in every log")
        or diag(join "\n", keys %logs);
    my ($losers, $keys) = ($n / 2 + $n / 100, $n / 2);
    like((keys %logs)[0], qr/^$losers\|$keys\|update_update\|update_update\|/,
        "$round: one for each loser");
}

# keys that change, several changes of a key in one entry
sql($_, 'TRUNCATE cozesync.conflict') for qw(a b c);
sql('a', "BEGIN; UPDATE t SET k = -k; UPDATE t SET v = v + 100 WHERE k % 2 = 0; DELETE FROM t WHERE k % 3 = 0; COMMIT");
sql('b', "UPDATE t SET v = -1");
at_most(reads(sub { carry_all() }), 20, 'keys that change');
is(sql('a', 'SELECT count(*) FILTER (WHERE k > 0), count(*) FILTER (WHERE k < 0) FROM t'),
    join('|', $n, $n - $n / 3), 'rows that were moved live on in their old place, too');
unlike(same('t'), qr/ \| /, 'on all nodes');
is(losses($_, 't'), losses('a', 't'), "the log of $_ is as that of a") for qw(b c);
like(losses('a', 't'), qr/^$n\|$n\|update_deleted\|update_deleted/, 'every update of a moved row');

# a TRUNCATE and a refill
sql($_, 'TRUNCATE cozesync.conflict') for qw(a b c);
sql('c', "UPDATE t SET v = 7 WHERE k > 0");
sql('a', "BEGIN; TRUNCATE t; INSERT INTO t SELECT i, 50, 'new' FROM generate_series(1, $n) i; COMMIT");
sql('b', "UPDATE t SET v = 8 WHERE k BETWEEN 1 AND 2000");
at_most(reads(sub { carry_all() }), 40, 'a table that is filled anew');
is(sql('a', 'SELECT count(*) FILTER (WHERE v = 50), count(*) FILTER (WHERE v = 8), count(*) FROM t'),
    join('|', $n - 2000, 2000, $n), 'has what was written last');
unlike(same('t'), qr/ \| /, 'on all nodes');

$server->stop('fast');
done_testing();
