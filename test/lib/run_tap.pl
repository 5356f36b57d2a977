# Run TAP programs side by side and count what they did.
#
# usage: run_tap.pl JOBS OUTDIR COUNTS PROGRAM...
#
# Each program's output goes to OUTDIR/<name>.tap, so that nothing is lost or
# mixed; a line a program goes to standard output.  COUNTS receives
# "passed failed skipped", counted in assertions (a TODO is a skip).  A program that crashed, ran
# out of time, or broke its plan counts as one failure more than it reported,
# and a program that is skipped whole counts as one skipped.

use strict;
use warnings;
use File::Basename qw(basename);
use TAP::Harness;

my ($jobs, $outdir, $counts, @programs) = @ARGV;
my $limit = $ENV{COZE_TEST_LIMIT} || 600;
my $failures = 0;
my %sum = (passed => 0, failed => 0, skipped => 0);
my %started;

sub output_of
{
    my ($program) = @_;
    (my $name = basename($program)) =~ s/\.(pl|t)$//;
    return "$outdir/$name.tap";
}

sub command_of
{
    my ($harness, $program) = @_;
    my @timed = ('timeout', '-k', '10', $limit);
    return [ @timed, $program ] if $program !~ /\.(pl|t)$/;
    open my $file, '<', $program or die "$program: $!";
    my $first = <$file> // '';
    return [ @timed, $program ] if -x $program && $first =~ /^#!/;
    return [ @timed, $^X, (map { "-I$_" } split /:/, $ENV{PERL5LIB} // ''), $program ];
}

sub show_tail
{
    my ($path, $lines) = @_;
    open my $file, '<', $path or return;
    my @all = <$file>;
    my $passed = qr{^ok \d|s\) ok \d|^\s*$|Sync to disk|pg_ctl -D|might become corrupt|^Success\.};
    my $routine = join '|', qr/^#+ /, qr/NOTICE: /, qr/^waiting for /, qr/^server st/, qr/\.\.\. \w+$/,
        qr/^The (database|files|default)/, qr/^selecting /, qr/^This user must/, qr/^Data page/,
        qr/^[A-Z][a-z]+( [a-z]+)?: /, qr/another server might/;
    my @said = grep { !/$passed/ && (/Looks like|Failed|#  / || !/$routine/) } @all;
    my $from = @said > $lines ? @said - $lines : 0;
    print "    ", $_ for @said[ $from .. $#said ];
}

# What went wrong in the servers that a TAP program started.
sub show_server_errors
{
    my ($name) = @_;
    for my $path (glob "tmp_check/log/${name}_*.log")
    {
        open my $file, '<', $path or next;
        my @bad = grep { / (WARNING|ERROR|FATAL|PANIC): |was terminated/ } <$file>;
        next if !@bad;
        print "    --- ", basename($path), "\n";
        print "    ", $_ for @bad[ ($#bad > 11 ? $#bad - 11 : 0) .. $#bad ];
    }
}

sub finished
{
    my ($test, $parser) = @_;
    my ($program) = ref $test ? @$test : ($test);
    my $skipped = $parser->skipped + $parser->todo;
    my $passed = $parser->passed - $skipped;
    my $failed = $parser->failed;
    my $state = 'ok';

    if (defined $parser->skip_all && !$parser->tests_run)
    {
        $state = 'skipped: ' . $parser->skip_all;
        $skipped = 1;
    }
    # A failed assertion makes the exit status nonzero; counted once.
    elsif ($parser->parse_errors || ($parser->wait && !$failed) || !$parser->tests_run)
    {
        $failed++;
        $state = $parser->wait == 124 << 8 ? "TIMED OUT after $limit s"
            : $parser->wait ? sprintf('CRASHED (status %d)', $parser->wait)
            : 'BROKE ITS PLAN';
    }
    elsif ($failed)
    {
        $state = 'FAILED: ' . join ' ', $parser->failed;
    }
    $sum{passed} += $passed;
    $sum{failed} += $failed;
    $sum{skipped} += $skipped;
    printf "%-40s %4d tests %6.1f s  %s\n", $program, $parser->tests_run,
        time - ($started{$program} // time), $state;
    if ($failed)
    {
        $failures++;
        show_tail(output_of($program), 60);
        # where PostgreSQL's Perl modules send what else was said
        (my $log = basename($program)) =~ s/\.pl$//;
        show_tail("tmp_check/log/regress_log_$log", 40);
        show_server_errors($log);
    }
}

$| = 1;
my $harness = TAP::Harness->new({
    jobs => $jobs,
    verbosity => -3,
    merge => 1,
    exec => \&command_of,
});
$harness->callback(parser_args => sub {
    my ($args, $test) = @_;
    my $program = $test->[0];
    $started{$program} = time;
    open my $spool, '>', output_of($program) or die output_of($program) . ": $!";
    $args->{spool} = $spool;
});
$harness->callback(after_test => \&finished);
$harness->runtests(@programs);

open my $out, '>', $counts or die "$counts: $!";
print $out "$sum{passed} $sum{failed} $sum{skipped}\n";
close $out or die "$counts: $!";
exit($failures ? 1 : 0);
