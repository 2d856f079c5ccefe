// SPDX-License-Identifier: Apache-2.0
// What the machine has that a guest cannot find out otherwise.  The fixed
// hardware (power button, timer, sleep control) is described by the FADT.
DefinitionBlock ("dsdt.aml", "DSDT", 2, "GODWIT", "GODWIT", 1)
{
    // Soft off: this sleep type, written to PM1 control (dev/acpi_pm.h).
    Name (\_S5, Package () { 5, 5, 0, 0 })

    Scope (\_SB)
    {
        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501")) // 16550
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x03F8, 0x03F8, 1, 8)
                IRQNoFlags () { 4 }
            })
        }

        Device (RTC)
        {
            Name (_HID, EisaId ("PNP0B00")) // MC146818, without its interrupt
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0070, 0x0070, 1, 2)
            })
        }
    }
}
