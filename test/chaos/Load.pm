# Load - who writes to the nodes and who watches them, a process each.
#
# Writers run random transactions and note what was acknowledged: a line
# "table token sync" for each write of a COMMIT that came back; every value written is a
# token that is written once.  Readers look at one node again and again and note what
# must never be seen, and in which order they saw the values of hot rows.

package Load;

use strict;
use warnings;
use IO::Handle;
use POSIX ();
use Policies;
use RandomWork;
use Time::HiRes qw(time usleep);
use WireSession;

our @tables = (qw(only_inserts hot come_and_go cause effect pair_left pair_right large toasted nested),
    @random_tables);

our $schema = $random_schema . q{
    CREATE TABLE only_inserts (id text PRIMARY KEY, sync bool, at timestamptz DEFAULT clock_timestamp());
    CREATE TABLE hot (id int PRIMARY KEY, n bigint, v text);
    INSERT INTO hot SELECT g, 0, 'start' || g FROM generate_series(1, 12) g;
    CREATE TABLE come_and_go (id int PRIMARY KEY, v text);
    CREATE TABLE cause (id text PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), of text[]);
    CREATE TABLE effect (id text PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), of text[]);
    CREATE TABLE pair_left (id text PRIMARY KEY);
    CREATE TABLE pair_right (id text PRIMARY KEY);
    CREATE TABLE large (tx text, i int, n int, t text, PRIMARY KEY (tx, i));
    CREATE TABLE toasted (id int PRIMARY KEY, big text, v text);
    ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE nested (id int PRIMARY KEY, v text, by text);
    INSERT INTO nested SELECT g, 'start', NULL FROM generate_series(1, 8) g;
    CREATE FUNCTION nest() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_trigger_depth() > 1 THEN RETURN NULL; END IF;
        UPDATE nested SET by = NEW.v WHERE id IN (NEW.id, NEW.id % 8 + 1);
        DELETE FROM nested WHERE id = 1 + (NEW.id + 4) % 8 AND NEW.v LIKE '%7';
        INSERT INTO nested VALUES (1 + (NEW.id + 4) % 8, NEW.v, 'again') ON CONFLICT (id) DO NOTHING;
        RETURN NULL;
    END $$;
    CREATE TRIGGER nest AFTER UPDATE ON nested FOR EACH ROW EXECUTE FUNCTION nest();
};

my $hot_rows = 12;
my $serial = 0;

# --- transactions -----------------------------------------------------------------------
#
# Each kind returns statements; what it writes for good it notes in @$tokens as [table, token, statement, key].

sub token
{
    my ($c) = @_;
    return $c->{tag} . '_' . ++$serial;
}

sub insert_only
{
    my ($c, $tokens) = @_;
    my $t = token($c);
    my $statement = "INSERT INTO only_inserts (id, sync) VALUES ('$t', '$c->{sync}')";
    push @$tokens, [ 'only_inserts', $t, $statement, $t ];
    return $statement;
}

sub hot
{
    my ($c, $tokens) = @_;
    my $t = token($c);
    my $id = 1 + int rand $hot_rows;
    my $delete = rand() < 0.07;
    my $statement = $delete ? "DELETE FROM hot WHERE id = $id"
        : rand() < 0.9 ? "UPDATE hot SET n = n + 1, v = '$t' WHERE id = $id"
        : "INSERT INTO hot VALUES ($id, 0, '$t') ON CONFLICT (id) DO UPDATE SET v = excluded.v";
    push @$tokens, [ 'hot', $delete ? undef : $t, $statement, $id ];
    return $statement;
}

sub come_and_go
{
    my ($c) = @_;
    my $id = 1 + int rand 30;
    my $t = token($c);
    return rand() < 0.5 ? "INSERT INTO come_and_go VALUES ($id, '$t') ON CONFLICT (id) DO UPDATE SET v = excluded.v"
        : rand() < 0.3 ? "UPDATE come_and_go SET id = " . (1 + int rand 30) . ", v = '$t' WHERE id = $id"
        : "DELETE FROM come_and_go WHERE id = $id";
}

# An effect names causes that this node shows, and so does a cause effects.
sub effect
{
    my ($c) = @_;
    my $t = token($c);
    my ($from, $into) = rand() < 0.5 ? qw(cause effect) : qw(effect cause);
    return "INSERT INTO $into (id, of) SELECT '$t', array_agg(id) FROM (SELECT id FROM $from ORDER BY at DESC LIMIT 3) x";
}

sub pair
{
    my ($c) = @_;
    my $t = token($c);
    # one statement, so that no savepoint comes between
    my $between = rand() < 0.1 ? "INSERT INTO large SELECT '$t', i, 1500, 'between' FROM generate_series(1, 1500) i;" : '';
    return "DO \$\$ BEGIN INSERT INTO pair_left VALUES ('$t'); $between INSERT INTO pair_right VALUES ('$t'); END \$\$";
}

sub large
{
    my ($c) = @_;
    my $t = token($c);
    my $n = pick(500, 2000, 6000);
    return ("INSERT INTO large SELECT '$t', i, $n, repeat('x', " . pick(10, 80, 300) . ") FROM generate_series(1, $n) i",
        rand() < 0.3 ? ("SAVEPOINT big", "UPDATE large SET t = 'gone' WHERE tx = '$t'",
            "ROLLBACK TO big", "UPDATE large SET t = t || 'y' WHERE tx = '$t' AND i % 7 = 0") : ());
}

sub toasted
{
    my ($c) = @_;
    my $t = token($c);
    my $id = 1 + int rand 6;
    my $big = "repeat('$t', " . pick(500, 3000, 20000) . ')';
    return rand() < 0.4 ? "INSERT INTO toasted VALUES ($id, $big, '$t') ON CONFLICT (id) DO UPDATE SET big = excluded.big, v = excluded.v"
        : rand() < 0.8 ? "UPDATE toasted SET v = '$t' WHERE id = $id"
        : "DELETE FROM toasted WHERE id = $id";
}

sub nested
{
    my ($c) = @_;
    return "UPDATE nested SET v = '" . token($c) . "' WHERE id " .
        pick('= ' . random_id(), 'IN (' . random_id() . ', ' . random_id() . ')', '> 0');
}

sub under_policy
{
    my ($c, $tokens) = @_;
    if (rand() < 0.25)
    {
        my $t = token($c);
        my $statement = Policies::count_up($t);
        push @$tokens, [ $Policies::counted, $t, $statement, $t ];
        return $statement;
    }
    return rand() < 0.02 ? Policies::settle() : Policies::statement(token($c));
}

sub random_one
{
    my ($c) = @_;
    return rand() < 0.05 ? random_swap() : random_statement(token($c));
}

sub truncate_one
{
    my ($c) = @_;
    return 'TRUNCATE ' . pick(qw(come_and_go toasted plain parted one_unique two_unique));
}

my @kinds = (
    [ 20, \&insert_only ], [ 20, \&hot ], [ 8, \&come_and_go ], [ 15, \&effect ], [ 8, \&pair ],
    [ 5, \&toasted ], [ 5, \&nested ], [ 30, \&random_one ], [ 0.6, \&large ], [ 0.4, \&truncate_one ],
);

sub some_work
{
    my ($c, $tokens) = @_;
    my $sum = 0;
    my @possible = (@kinds, $c->{policies} ? [ 25, \&under_policy ] : ());
    $sum += $_->[0] for @possible;
    my $dice = rand $sum;
    for my $kind (@possible)
    {
        return $kind->[1]->($c, $tokens) if ($dice -= $kind->[0]) < 0;
    }
    return;
}

# One transaction: its statements, and how many seconds it stays open before the last.
sub transaction
{
    my ($c, $tokens) = @_;
    my @list = some_work($c, $tokens);
    if (@list == 1 && rand() < 0.5)
    {
        return (\@list, 0);
    }
    push @list, some_work($c, $tokens) for 1 .. pick(0, 0, 1, 2, 4);
    my @all = ('BEGIN');
    for my $statement (@list)
    {
        if (rand() < 0.15)
        {
            push @all, 'SAVEPOINT lost', (some_work($c, [])), 'ROLLBACK TO lost';
        }
        # what fails shall not take the rest away, most of the time
        push @all, rand() < 0.5 && $statement !~ /^(SAVEPOINT|ROLLBACK|UPDATE large)/ ? ("SAVEPOINT s", $statement) : $statement;
    }
    return ([ @all, 'COMMIT' ], rand() < 0.01 ? 1 + rand 4 : 0);
}

# --- processes ------------------------------------------------------------------------------

# c: host, port, user (of the node), tag, sync, seed, stop (file), acks (file), pause (seconds
# between transactions), policies (are there tables with one).  Returns the pid.
sub start_writer
{
    my (%c) = @_;
    my $pid = fork // die "fork: $!";
    return $pid if $pid;
    srand $c{seed};
    open my $acks, '>>', $c{acks} or POSIX::_exit(1);
    my $session;
    while (!-e $c{stop})
    {
        if (!$session || $session->lost)
        {
            $session = open_session(\%c);
            if (!$session)
            {
                usleep(100_000);
                next;
            }
            $session->query("SET synchronous_commit = $c{sync}; SET statement_timeout = '20s'");
        }
        my @tokens;
        my ($statements, $linger) = transaction(\%c, \@tokens);
        my %tag;
        if (run_transaction($session, $statements, $linger, \%tag))
        {
            print $acks "$_->[0] $_->[1] $c{sync}\n" for lasting(\@tokens, \%tag);
            $acks->flush;
        }
        usleep(rand 2_000_000 * $c{pause}) if $c{pause};
    }
    close $acks;
    POSIX::_exit(0);
}

sub open_session
{
    my ($c) = @_;
    return WireSession->new(host => $c->{host}, port => $c->{port}, user => $c->{user},
        dbname => 'postgres', name => "chaos $c->{tag}", patience => 90,
        give_up => sub { -e "$c->{stop}.hard" });
}

# Of the tokens of a transaction those that it left behind: the last one of each key.
sub lasting
{
    my ($tokens, $tag) = @_;
    my %last;
    for my $t (grep { ($tag->{ $_->[2] } // '') !~ / 0$/ } @$tokens)
    {
        $last{"$t->[0] $t->[3]"} = $t;
    }
    return grep { defined $_->[1] } values %last;
}

# True if the whole was acknowledged as committed.  A statement that fails is rolled back to the
# savepoint before it, if there is one, and then nothing of the transaction counts as acknowledged.
sub run_transaction
{
    my ($session, $statements, $linger, $tag) = @_;
    my $single = @$statements == 1;
    my $whole = 1;
    my $have_savepoint = 0;
    for my $i (0 .. $#$statements)
    {
        usleep(1_000_000 * $linger) if $linger && $i == $#$statements;
        my $answer = $session->query($statements->[$i]);
        return 0 if $answer->{lost};
        $tag->{ $statements->[$i] } = $answer->{tags}[0] // '';
        $have_savepoint = 1 if $statements->[$i] eq 'SAVEPOINT s' && !$answer->{state};
        if ($answer->{state})
        {
            return 0 if $single;
            $whole = 0;
            if (!$have_savepoint)
            {
                $session->query('ROLLBACK');
                return 0;
            }
            $session->query('ROLLBACK TO s');
        }
        return $whole if $single || ($i == $#$statements && ($answer->{tags}[0] // '') eq 'COMMIT');
    }
    return 0;
}

# What must hold in every snapshot of every node: name => query that finds what breaks it.
my %always = (
    'an effect without its cause' => q{
        SELECT e.id, w FROM effect e, unnest(e.of) w WHERE NOT EXISTS (SELECT FROM cause c WHERE c.id = w)
        UNION ALL
        SELECT c.id, w FROM cause c, unnest(c.of) w WHERE NOT EXISTS (SELECT FROM effect e WHERE e.id = w) LIMIT 3},
    'half of a pair' => q{
        SELECT id, 'left only' FROM pair_left l WHERE NOT EXISTS (SELECT FROM pair_right r WHERE r.id = l.id)
        UNION ALL
        SELECT id, 'right only' FROM pair_right r WHERE NOT EXISTS (SELECT FROM pair_left l WHERE r.id = l.id) LIMIT 3},
    'a part of a large transaction' => q{
        SELECT tx, count(*) || ' of ' || n FROM large GROUP BY tx, n HAVING count(*) <> n LIMIT 3},
);

# Writes "session id value" (value '-' if absent) to c.seen whenever it changes for a hot row;
# what must never be seen to c.never.
sub start_reader
{
    my (%c) = @_;
    my $pid = fork // die "fork: $!";
    return $pid if $pid;
    open my $seen, '>>', $c{seen} or POSIX::_exit(1);
    my ($session, $number, %last) = (undef, 0);
    while (!-e $c{stop})
    {
        if (!$session || $session->lost)
        {
            $session = open_session(\%c);
            if (!$session)
            {
                usleep(100_000);
                next;
            }
            $number++;
            %last = ();
        }
        look_at_hot($session, $seen, $number, \%last);
        look_always($session, $c{never}) if rand() < 0.1;
        usleep(30_000);
    }
    $seen->flush;
    POSIX::_exit(0);
}

sub look_at_hot
{
    my ($session, $seen, $number, $last) = @_;
    my $answer = $session->query('SELECT id, v FROM hot');
    return if $answer->{lost} || $answer->{state};
    my %now = map { $_->[0] => $_->[1] } @{ $answer->{rows} };
    for my $id (1 .. $hot_rows)
    {
        my $value = $now{$id} // '-';
        next if ($last->{$id} // '') eq $value;
        $last->{$id} = $value;
        print $seen "$number $id $value\n";
    }
    return;
}

sub look_always
{
    my ($session, $never) = @_;
    $session->query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    for my $name (sort keys %always)
    {
        my $answer = $session->query($always{$name});
        last if $answer->{lost} || $answer->{state};
        next if !@{ $answer->{rows} };
        next if -e $never && -s $never > 2000;
        open my $out, '>>', $never or next;
        print $out "$name: @{ $_ }\n" for @{ $answer->{rows} };
        close $out;
    }
    $session->query('COMMIT');
    return;
}

1;
